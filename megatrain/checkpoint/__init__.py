"""Checkpoints without a layout: logical tensors, stored as boxes, committed by a manifest."""
