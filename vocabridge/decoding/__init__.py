"""Models on a growing text: incremental tokenization, token trees, KV caches, stop strings."""
