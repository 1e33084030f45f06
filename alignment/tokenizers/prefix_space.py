"""The prepended space: a space that is not in the text, and that many tokenizers put in front of it.

In SentencePiece tokenizers a word begins with "▁", so many of them put a space in front of a text that begins with
none, and some do so again after a control token. Models expect this space. The bare tokenizer, which alignments and
re-tokenization use, leaves it out. Encoding a text for a model therefore means encoding a space and the text with the
bare tokenizer. Tokenizers follow different rules; probes show which one.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Ids: TypeAlias = Callable[[Sequence[str]], list[list[int]]]
"""A function that encodes texts into ids."""

_PROBES = ("a", "Ab c", " a", "  b", "1", "é x", "\na", "(x)", "▁a")
_START = 32
"""How many characters of a text are normalized to see how it begins."""


class Place(enum.Enum):
    """The place of a piece of text.

    Attributes:
        BEGINNING: At the beginning of a text, after nothing but the bos token.
        AFTER_CONTROL: Directly after a control token.
        INSIDE: After other text.
    """

    BEGINNING = enum.auto()
    AFTER_CONTROL = enum.auto()
    INSIDE = enum.auto()

    def after(self, piece: bytes | int) -> Place:
        """Return the place after a piece: some bytes, or the id of a control token."""
        if isinstance(piece, int):
            return Place.AFTER_CONTROL
        return Place.INSIDE if piece else self


class Rule(enum.Enum):
    """The rule by which a tokenizer puts a space in front of text.

    The value of a rule is the tuple of beginnings of a text that get no space, or None if no text gets one.

    Attributes:
        NEVER: Never.
        ALWAYS: Always.
        IF_NO_SPACE: If the text does not begin with a space.
        IF_NO_MARK: If the text begins neither with a space nor with "▁".
    """

    NEVER = None
    ALWAYS = ()
    IF_NO_SPACE = (" ",)
    IF_NO_MARK = (" ", "▁")


@dataclass(frozen=True)
class PrefixSpace:
    """The rules by which a tokenizer puts spaces in front of text.

    Attributes:
        beginning: The rule at the beginning of a text.
        after_control: The rule after a control token.
        normalize: The normalizer of the bare tokenizer.
    """

    beginning: Rule = Rule.NEVER
    after_control: Rule = Rule.NEVER
    normalize: Callable[[str], str] = str

    @classmethod
    def of(
        cls, native: Ids, bare: Ids, normalize: Callable[[str], str], controls: Iterable[tuple[int, str]]
    ) -> PrefixSpace:
        """Find the rules of a tokenizer by encoding probes.

        Args:
            native: The tokenizer with the prepended space.
            bare: The tokenizer without it.
            normalize: The normalizer of the bare tokenizer.
            controls: Ids and names of control tokens, the most important first.
        """

        def matching_rule(encode: Ids) -> Rule | None:
            expected = encode(_PROBES)
            for rule in Rule:
                candidate = cls(rule, normalize=normalize)
                if bare([candidate.prefix(text, Place.BEGINNING) + text for text in _PROBES]) == expected:
                    return rule
            return None

        rules = (matching_rule(functools.partial(_encoded_after, native, i, name)) for i, name in controls)
        after_control = next((rule for rule in rules if rule), Rule.NEVER)
        return cls(matching_rule(native) or Rule.NEVER, after_control, normalize)

    def rule(self, place: Place) -> Rule:
        """Return the rule for text at a place."""
        if place is Place.INSIDE:
            return Rule.NEVER
        return self.beginning if place is Place.BEGINNING else self.after_control

    def prefix(self, text: str, place: Place) -> str:
        """Return what the tokenizer puts in front of a text at a place: a space or ""."""
        excepted = self.rule(place).value
        if not text or excepted is None:
            return ""
        start = self.normalize(text[:_START]) or self.normalize(text)
        return "" if not start or start.startswith(excepted) else " "

    def strip(self, data: bytes, place: Place) -> bytes:
        """Return the text that a token with these bytes stands for at a place: the bytes without a prepended space."""
        return data[1:] if data[:1] == b" " and self.rule(place) is not Rule.NEVER else data


def _encoded_after(native: Ids, control: int, name: str, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts after a control token, and return only the ids of the texts."""
    encoded = native([name + text for text in texts])
    return [ids[ids.index(control) + 1 :] if control in ids else [] for ids in encoded]
