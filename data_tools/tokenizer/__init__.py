"""The tokenizer of a dataset: sampled for, trained or imported, and reported on."""
