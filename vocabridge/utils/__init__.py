"""Helpers that know nothing of models: hashing, JSON lines, HTML pages, number ranges, progress, memory errors."""
