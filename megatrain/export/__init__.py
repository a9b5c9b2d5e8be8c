"""Trained models out of the house: Hugging Face folders, checked against the model they came from, and generated text."""
