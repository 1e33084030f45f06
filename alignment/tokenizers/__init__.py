"""Tokenizers as bytes: loading, byte views, chat templates, classes of tokens."""
