"""What an id is, and a text as tokens."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vocabridge.alignment.arrays import Int32, Int64

WIDEST = 1 << 24
"""Ids of a vocabulary at most: some 60 times as many as any model has, and what a few hundred megabytes hold."""


class TokenKind(enum.IntEnum):
    """What an id is.

    Attributes:
        TEXT: Stands for text.
        BYTE: Stands for one byte as such: `<0xXX>`, or a byte of a byte-level alphabet that is no character.
        CONTROL: Steers the model (begin, end, padding, chat markers, the unknown token); stands for no bytes.
        UNUSED: Stands for nothing: reserved names, holes among the ids, rows that pad the model's width.
    """

    TEXT = 0
    BYTE = 1
    CONTROL = 2
    UNUSED = 3


@dataclass(frozen=True)
class Encoding:
    """A text as tokens.

    Attributes:
        ids: (n,) int32.
        starts: (n,) int64, the byte of the UTF-8 text at which each token starts, increasing. A token that
            has no start of its own is -1: where the tokenizer changed the text, several tokens may come
            from one character, and only the first of them starts there.
    """

    ids: Int32
    starts: Int64
