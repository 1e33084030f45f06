"""Tokens for people: any bytes as printable text, and the tokens that get the most of some mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_SHOWN = 3
_SHOWN_FROM = 1e-3
"""How many of the tokens that got the mass are listed, and the mass from which on they are."""


@dataclass(frozen=True)
class Token:
    """A token: its id, and its bytes as `readable` shows them."""

    id: int
    text: str

    @classmethod
    def of(cls, vocabulary: Vocabulary, i: int) -> Token:
        """Show a token; one without bytes by its name."""
        data = vocabulary.token_bytes[i]
        return cls(i, vocabulary.tokenizer.id_to_token(i) or "" if data is None else readable(data))


@dataclass(frozen=True)
class Share:
    """A token that gets mass, and how much, of 1."""

    token: Token
    mass: float


def largest(vocabulary: Vocabulary, masses: np.ndarray[Any, Any]) -> tuple[Share, ...]:
    """Return the few tokens that get most of the masses, (size,), largest first."""
    order = np.argsort(-masses, kind="stable")[:_SHOWN].tolist()
    return tuple(Share(Token.of(vocabulary, i), float(masses[i])) for i in order if masses[i] >= _SHOWN_FROM)


def readable(data: bytes) -> str:
    r"""Show any bytes as printable text, each in a way of its own: a space as ␣, a newline as \n, a byte as \xNN."""
    return "".join(map(_readable_character, data.decode(errors="surrogateescape")))


def _readable_character(character: str) -> str:
    if character == " ":
        return "␣"
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable() and character not in "\\␣":
        return character
    if "\x80" <= character <= "\xff":  # two bytes: not to be taken for a byte as such
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()
