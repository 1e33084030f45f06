"""A source's predictions on the target's vocabulary: healing, lookahead, sparse products, combination."""
