"""Trained models out of the house: Hugging Face folders, checked against their origin, and generated text."""
