"""The space that a tokenizer puts in front of a text, and again behind a control token: it is in no text.

SentencePiece's tokenizers begin a word with "▁", so many put a space in front of a text that has none. The bare view,
which alignments and re-tokenization use, leaves it out; a model expects it. To encode a text for a model is to take the
bare view of it behind that space. Which rule a tokenizer follows is found by trying.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Ids: TypeAlias = Callable[[Sequence[str]], list[list[int]]]
"""Encodes texts."""

_PROBES = ("a", "Ab c", " a", "  b", "1", "é x", "\na", "(x)", "▁a")
_START = 32  # so many characters tell how a text begins


class Place(enum.Enum):
    """Where a piece of text stands.

    Attributes:
        BEGINNING: At the beginning of a text, behind no more than the bos token.
        BEHIND_CONTROL: Right behind a control token.
        INSIDE: Behind other text.
    """

    BEGINNING = enum.auto()
    BEHIND_CONTROL = enum.auto()
    INSIDE = enum.auto()

    def after(self, piece: bytes | int) -> Place:
        """Return the place behind some bytes, or behind a control token."""
        if isinstance(piece, int):
            return Place.BEHIND_CONTROL
        return Place.INSIDE if piece else self


class Rule(enum.Enum):
    """When a tokenizer puts a space in front of text; the value: before which beginnings of a text it does not.

    Attributes:
        NEVER: Never.
        ALWAYS: Always.
        IF_NO_SPACE: If the text does not begin with a space.
        IF_NO_MARK: The same, and "▁" is a space, too.
    """

    NEVER = None
    ALWAYS = ()
    IF_NO_SPACE = (" ",)
    IF_NO_MARK = (" ", "▁")


@dataclass(frozen=True)
class PrefixSpace:
    """A tokenizer's rules.

    Attributes:
        beginning: At the beginning of a text.
        behind_control: Behind a control token.
        normalize: What the bare tokenizer makes of a text before it cuts it.
    """

    beginning: Rule = Rule.NEVER
    behind_control: Rule = Rule.NEVER
    normalize: Callable[[str], str] = str

    @classmethod
    def of(
        cls, native: Ids, bare: Ids, normalize: Callable[[str], str], controls: Iterable[tuple[int, str]]
    ) -> PrefixSpace:
        """Find the rules.

        Args:
            native: Encodes as the tokenizer does.
            bare: Encodes a text as itself.
            normalize: See above.
            controls: Ids and names of control tokens, those that matter most first.
        """

        def rule(encode: Ids) -> Rule | None:
            found = encode(_PROBES)
            for one in Rule:
                put = cls(one, normalize=normalize)
                if bare([put.prefix(text, Place.BEGINNING) + text for text in _PROBES]) == found:
                    return one
            return None

        behind = (rule(functools.partial(_behind, native, i, name)) for i, name in controls)
        return cls(rule(native) or Rule.NEVER, next((one for one in behind if one), Rule.NEVER), normalize)

    def rule(self, place: Place) -> Rule:
        """Return the rule at a place."""
        if place is Place.INSIDE:
            return Rule.NEVER
        return self.beginning if place is Place.BEGINNING else self.behind_control

    def prefix(self, text: str, place: Place) -> str:
        """Return what is put in front of a text at a place, "" or a space."""
        spared = self.rule(place).value
        if not text or spared is None:
            return ""
        start = self.normalize(text[:_START]) or self.normalize(text)
        return "" if not start or start.startswith(spared) else " "

    def strip(self, written: bytes, place: Place) -> bytes:
        """Return the text that a token stands for at a place: its bytes without the space that is in no text."""
        return written[1:] if written[:1] == b" " and self.rule(place) is not Rule.NEVER else written


def _behind(native: Ids, control: int, name: str, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts behind a control token."""
    encoded = native([name + text for text in texts])
    return [ids[ids.index(control) + 1 :] if control in ids else [] for ids in encoded]
