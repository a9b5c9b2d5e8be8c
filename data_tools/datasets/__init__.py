"""Finished datasets as they lie on the disk: their shards' columns, statistics, documents and windows."""
