"""Bridges: a base model steered by value sources, in memory and on disk."""
