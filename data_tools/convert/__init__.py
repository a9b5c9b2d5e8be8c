"""Datasets of other tools to ours and ours to theirs: Megatron's .bin/.idx, MosaicML's MDS, parquet."""
