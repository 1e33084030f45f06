"""Tokenizers: loading, the bytes of each token, chat templates, classes of tokens."""
