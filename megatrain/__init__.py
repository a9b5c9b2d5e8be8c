"""megatrain: pretraining of large language models, from raw text to a model that can be served."""

__version__ = "0.1.0"
