"""Incremental re-tokenisation: a value network reads the text that another model writes, in its own tokens.

Text arrives in pieces of bytes that follow another tokenizer. After every piece, the reader's ids equal the
encoding of all text so far from scratch; the ids that stay from one piece to the next are a prefix, and only
the rest is new to the value network.

Encoding everything anew on each token would cost the square of the text's length, so the reader encodes from
the last *safe cut* only: a place between a letter or digit and a space. No token of the vocabulary spans such
a place (checked once per vocabulary), so no merge can cross it, and what is on its left is settled for good.
A vocabulary that has a token across such a place, or a pre-tokenizer that treats the two halves otherwise
than the whole, has no safe cuts, and is encoded from the start each time.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from itertools import takewhile

import numpy as np

from vocabridge.alignment import Vocabulary

SAFE_CUT = re.compile(r"(?<=[A-Za-z0-9])(?= )")
_SPANNING = re.compile(rb"[A-Za-z0-9] ")
_PROBES = tuple(
    (left, right)
    for left in ("a", "The word", "x1", "12", "naïve fo", "  f", "def f", "日本a", "it's", "A\nb", "İB")
    for right in (" ", "  ", " a", "  b", " 1", " \n", " é", " 日", " .", " '", " \t", "   c d", " 🙂")
)


@lru_cache(maxsize=32)
def has_safe_cuts(vocabulary: Vocabulary) -> bool:
    """Whether encoding splits at every place between an ASCII letter or digit and a space."""
    if any(data is not None and _SPANNING.search(data) for data in vocabulary.token_bytes):
        return False
    # A token that is matched in the raw text stands for no bytes if it is special, and may swallow spaces.
    for token in vocabulary.tokenizer.get_added_tokens_decoder().values():
        if _SPANNING.search(token.content.encode()) or token.rstrip:
            return False
    texts = [text for left, right in _PROBES for text in (left, right, left + right)]
    ids = [encoding.ids.tolist() for encoding in vocabulary.encode_batch(texts)]
    return all(ids[i] + ids[i + 1] == ids[i + 2] for i in range(0, len(ids), 3))


def begin_tokens(vocabulary: Vocabulary) -> list[int]:
    """The ids that stand in front of every text: the begin token where the model expects it, else none."""
    return [vocabulary.roles["begin"]] if vocabulary.adds_begin else []


class Reader:
    """The value network's view of one growing text.

    Bytes that end inside a UTF-8 character wait until the character is whole. Bytes that can never become a
    character are read as U+FFFD, as any decoder would show them.

    Attributes:
        ids: The encoding of all whole characters so far. Treat it as read-only.
        pending: Whether the text ends inside a character.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts with the empty text."""
        self.ids: list[int] = []
        self._vocabulary = vocabulary
        self._cuts = has_safe_cuts(vocabulary)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tail = ""  # the text from the last safe cut on
        self._settled = 0  # how many ids stand before that cut

    @property
    def pending(self) -> bool:
        """Whether the text ends inside a UTF-8 character."""
        return bool(self._decoder.getstate()[0])

    def copy(self) -> Reader:
        """An independent reader of the same text."""
        other = Reader(self._vocabulary)
        other.ids, other._tail, other._settled = list(self.ids), self._tail, self._settled
        other._decoder.setstate(self._decoder.getstate())
        return other

    def push(self, data: bytes) -> int:
        """Reads on.

        Args:
            data: The next bytes of the text, any number, cut anywhere.

        Returns:
            How many of the ids from before are still the beginning of `ids`; all after them are new.
        """
        text = self._decoder.decode(data)
        if not text:
            return len(self.ids)
        self._tail += text
        encoding = self._vocabulary.encode(self._tail)
        before, after = self.ids[self._settled :], encoding.ids.tolist()
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
        kept = self._settled + common
        self.ids[kept:] = after[common:]
        if self._cuts:
            self._settle(encoding.starts)
        return kept

    def _settle(self, starts: np.ndarray) -> None:
        cuts = [match.start() for match in SAFE_CUT.finditer(self._tail)]
        if not cuts:
            return
        tokens_at_cut = np.flatnonzero(starts == len(self._tail[: cuts[-1]].encode()))
        if len(tokens_at_cut):
            self._settled += int(tokens_at_cut[0])
            self._tail = self._tail[cuts[-1] :]
