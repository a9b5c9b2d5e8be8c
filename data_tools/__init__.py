"""Raw text to token shards: read, clean, deduplicate, train a tokenizer, encode, write."""
