"""How good a model is: its loss on held-out text, and the n-gram baselines it is held against."""
