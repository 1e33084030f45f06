"""The ways to align two vocabularies, one file each; `methods` knows them by name."""
