"""Types for tokens: the kinds of ids, and an encoded text."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vocabridge.alignment.arrays import Int32, Int64

WIDEST = 1 << 24
"""The largest vocabulary in ids: some 60 times that of any model, and what fits into a few hundred MB."""


class TokenKind(enum.IntEnum):
    """The kind of an id.

    Attributes:
        TEXT: A token that stands for text.
        BYTE: A token that stands for a single byte: `<0xXX>`, or a byte of a byte-level alphabet that is no character.
        CONTROL: A token that stands for no text, such as bos, eos, pad, unk and the tokens around a chat turn.
        UNUSED: An id that stands for nothing: a reserved name, a hole among the ids, or a row that pads the logits.
    """

    TEXT = 0
    BYTE = 1
    CONTROL = 2
    UNUSED = 3


@dataclass(frozen=True)
class Encoding:
    """A text as tokens.

    Attributes:
        ids: The ids, (n,) int32.
        starts: The byte of the UTF-8 text at which each token starts, increasing, (n,) int64. A token without a start
            of its own has -1: if the tokenizer changed the text, several tokens may come from one character, and only
            the first of them starts there.
    """

    ids: Int32
    starts: Int64
