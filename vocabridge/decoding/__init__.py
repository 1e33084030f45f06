"""Reading text step by step: incremental tokenization, token trees, KV caches, stop strings."""
