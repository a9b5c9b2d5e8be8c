"""The model: a plain Llama-style decoder, the plan that says how it is split, and its initial weights."""

from megatrain.model.transformer import LossSum, Transformer, model_plan

__all__ = ["LossSum", "Transformer", "model_plan"]
