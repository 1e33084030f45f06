"""Projection of a source's predictions to the target's vocabulary, with token healing, lookahead and combination."""
