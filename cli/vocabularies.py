"""Vocabularies by what a user calls them; only the packaged models, which are converted, need torch."""

from __future__ import annotations

from vocabridge.alignment import Vocabulary

PACKAGED = ("smollm2-135m-instruct", "gemma-3-270m")
"""The names in `vocabridge.models.PACKAGED`."""


def vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a packaged model, or of what `Vocabulary.load` takes.

    Raises:
        VocabridgeError: Nothing by that name holds a tokenizer.
    """
    if name in PACKAGED:
        from vocabridge.models import resolve_vocabulary

        return resolve_vocabulary(name)
    return Vocabulary.load(name)
