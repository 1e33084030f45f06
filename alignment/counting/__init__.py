"""Counts of token pairs over text: in threads, processes and shards."""
