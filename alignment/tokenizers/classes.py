"""Classes of tokens, such as words and numbers, by which coverage and scores are reported."""

from __future__ import annotations

import enum
import re
import unicodedata
from typing import Any

import numpy as np

from vocabridge.alignment.arrays import Int8
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


class TokenClass(enum.IntEnum):
    """A class of tokens, which depends on their bytes without surrounding white space.

    Attributes:
        WORDS: Letters of the Latin script, with an apostrophe or hyphen inside or in front.
        NUMBERS: Digits, which may have points and commas among them.
        WHITESPACE: Only white space.
        PUNCTUATION: Punctuation of prose: one mark, or a common group such as `."` or `),`.
        CODE: All other ASCII: brackets, operators, identifiers with underscores or digits.
        NON_LATIN: Letters of other scripts, other symbols, and parts of a UTF-8 character.
        CONTROL: Tokens that stand for no text, such as bos, eos and the tokens around a chat turn.
    """

    WORDS = 0
    NUMBERS = 1
    WHITESPACE = 2
    PUNCTUATION = 3
    CODE = 4
    NON_LATIN = 5
    CONTROL = 6

    @property
    def label(self) -> str:
        """The name that tables and reports use."""
        return self.name.lower().replace("_", "-")


_WORD = re.compile(r"['’]?[^\W\d_]+(?:['’-][^\W\d_]+)*['’-]?")
_NUMBER = re.compile(r"[.,]?\d[\d.,]*")
_PUNCTUATION = re.compile(r"[.,;:!?]{0,3}[\"'”’)]?[.,;:!?]?|[(\"'“‘«»¿¡]|[-–—]{1,3}|…|[$€£%&]")


def classify(data: bytes) -> TokenClass:
    """Return the class of a token that stands for these bytes."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return TokenClass.NON_LATIN
    if not text:
        return TokenClass.WHITESPACE
    if _NUMBER.fullmatch(text):
        return TokenClass.NUMBERS
    if _PUNCTUATION.fullmatch(text):
        return TokenClass.PUNCTUATION
    if not text.isascii() and not all(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in text):
        return TokenClass.NON_LATIN
    return TokenClass.WORDS if _WORD.fullmatch(text) else TokenClass.CODE


def classes_of(vocabulary: Vocabulary) -> Int8:
    """Return the `TokenClass` of every id, (size,) int8; CONTROL for ids that stand for no bytes."""
    classes: np.ndarray[Any, np.dtype[np.int8]] = np.full(vocabulary.size, TokenClass.CONTROL, np.int8)
    for i in vocabulary.usable.tolist():
        classes[i] = classify(vocabulary.token_bytes[i] or b"")
    return classes
