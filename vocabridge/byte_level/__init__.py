"""The byte-level mode: models combined over bytes, exactly and without an alignment."""
