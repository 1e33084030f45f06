"""Vocabularies by the name that a user gives; only packaged models and adapters need torch."""

from __future__ import annotations

from pathlib import Path

from vocabridge.alignment import VocabridgeError, Vocabulary, VocabularyCard

PACKAGED = ("smollm2-135m-instruct", "gemma-3-270m")
"""The names in `vocabridge.models.packaged.PACKAGED`."""


def vocabulary(name: str) -> Vocabulary:
    """Load the vocabulary of a packaged model, of a PEFT adapter, or of anything that `Vocabulary.load` reads.

    Raises:
        VocabridgeError: The name does not lead to a tokenizer.
    """
    if name in PACKAGED or (Path(name) / "adapter_config.json").is_file():
        from vocabridge.models.loading import resolve_vocabulary

        return resolve_vocabulary(name)
    return Vocabulary.load(name)


def recorded_vocabulary(side: str, name: str | None, card: VocabularyCard) -> Vocabulary:
    """Load the vocabulary that the user names, or by default the one that an alignment records.

    Args:
        side: "source" or "target".
        name: The name that the user gave, or None.
        card: The alignment's record of the vocabulary.

    Raises:
        VocabridgeError: There is no tokenizer under that name.
    """
    if name is not None:
        return vocabulary(name)
    try:
        return vocabulary(card.name)
    except VocabridgeError as error:
        raise VocabridgeError(
            f"the alignment's {side} tokenizer is no longer at {card.name}; name it with --{side}"
        ) from error
