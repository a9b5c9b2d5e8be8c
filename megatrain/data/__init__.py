"""Token shards and the way from them to batches: format, dataset, order of samples, loader, tokenizer."""
