"""Vocabularies by what a user calls them; only packaged models, which are converted, and adapters need torch."""

from __future__ import annotations

from pathlib import Path

from vocabridge.alignment import VocabridgeError, Vocabulary, VocabularyCard

PACKAGED = ("smollm2-135m-instruct", "gemma-3-270m")
"""The names in `vocabridge.models.packaged.PACKAGED`."""


def vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a packaged model, of a PEFT adapter, or of what `Vocabulary.load` takes.

    Raises:
        VocabridgeError: Nothing by that name holds a tokenizer.
    """
    if name in PACKAGED or (Path(name) / "adapter_config.json").is_file():
        from vocabridge.models.loading import resolve_vocabulary

        return resolve_vocabulary(name)
    return Vocabulary.load(name)


def remembered(side: str, given: str | None, card: VocabularyCard) -> Vocabulary:
    """The vocabulary that the user names, or the one at the place that an alignment remembers.

    Raises:
        VocabridgeError: There is none; the message says to name it.
    """
    if given is not None:
        return vocabulary(given)
    try:
        return vocabulary(card.name)
    except VocabridgeError as error:
        raise VocabridgeError(
            f"The alignment's {side} tokenizer is not where it was, {card.name}; name it with --{side}."
        ) from error
