"""Show tokens as printable text, and list the tokens that get most of some mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_LISTED = 3
_LEAST_LISTED_MASS = 1e-3
"""At most `_LISTED` tokens are listed, and none with less than this mass."""


@dataclass(frozen=True)
class Token:
    """A token as it is shown.

    Attributes:
        id: The token's id.
        text: The token's bytes as `readable` shows them; the name of a token without bytes.
    """

    id: int
    text: str

    @classmethod
    def of(cls, vocabulary: Vocabulary, i: int) -> Token:
        """Make the shown form of a vocabulary's token."""
        data = vocabulary.token_bytes[i]
        return cls(i, vocabulary.tokenizer.id_to_token(i) or "" if data is None else readable(data))


@dataclass(frozen=True)
class Share:
    """A token and the share of mass (0 to 1) that it gets."""

    token: Token
    mass: float


def largest(vocabulary: Vocabulary, masses: np.ndarray[Any, Any]) -> tuple[Share, ...]:
    """Return the tokens with the largest masses, (size,), the largest first."""
    order = np.argsort(-masses, kind="stable")[:_LISTED].tolist()
    return tuple(Share(Token.of(vocabulary, i), float(masses[i])) for i in order if masses[i] >= _LEAST_LISTED_MASS)


def readable(data: bytes) -> str:
    r"""Show bytes as unambiguous printable text: a space as ␣, a newline as \n, a byte of no character as \xNN."""
    return "".join(map(_readable_character, data.decode(errors="surrogateescape")))


def _readable_character(character: str) -> str:
    if character == " ":
        return "␣"
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable() and character not in "\\␣":
        return character
    if "\x80" <= character <= "\xff":  # a character of two bytes, which \xNN would show as one byte
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()
