"""Incremental re-tokenisation: a value network reads the text that another model writes, in its own tokens.

Text arrives in pieces that follow another tokenizer. At any time the reader's ids equal the encoding of all text so
far from scratch, and its covers are the ways in which its tokenizer may have cut that text if more is to follow.

Encoding everything anew on each token would cost the square of the text's length, so the reader encodes from
the last *safe cut* only (see `safe_cuts`): what is on its left is settled for good. Without any, a text is encoded from
its start each time.
"""

from __future__ import annotations

import codecs
import copy
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Encoding, Place, Rule, Vocabulary
from vocabridge.decoding.safe_cuts import safe_cuts
from vocabridge.models.prompts import BEGUN, Piece

_GOES_ON = "a"
"""How a text continues that does not end in a letter. Where it ends in white space, what that becomes before a word is
another cover; other continuations (digits, punctuation, further space) add nothing that could be measured."""


@dataclass(frozen=True)
class CoverCandidate:
    """One way in which the source may have cut the text so far.

    Attributes:
        ids: The tokens behind the committed ones.
        pending: What is left of the text: the source's next token begins with these bytes and runs on.
    """

    ids: tuple[int, ...]
    pending: bytes


class IncrementalTokenizer:
    """The value network's view of one growing text.

    Bytes that end inside a UTF-8 character wait until the character is whole. Bytes that can never become a
    character are read as U+FFFD, as any decoder would show them. A control token ends the text in front of it for
    good; what follows is encoded by itself, as transformers does.

    Attributes:
        committed_ids: The ids before the last safe cut; they never change again. Treat it as read-only.
        tail: The text behind it, whole characters only.
        place: Where that text begins.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts with the empty text, and the bos token where the model expects it."""
        self.committed_ids = vocabulary.bos_ids
        self.tail = ""
        self.place = Place.BEGINNING
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def partial_utf8(self) -> bytes:
        """The beginning of a character, where the text ends inside one."""
        return self._decoder.getstate()[0]

    @property
    def ids(self) -> list[int]:
        """The encoding of all whole characters so far, the bos token in front."""
        return self.committed_ids + self._encoded(self.tail)

    @property
    def waits(self) -> bool:
        """Whether its tokenizer puts a space in front of the text that comes, and none has come yet."""
        return not self.tail and self._vocabulary.prefix_space.rule(self.place) is not Rule.NEVER

    def copy(self) -> IncrementalTokenizer:
        """An independent reader of the same text."""
        other = copy.copy(self)
        other.committed_ids = list(self.committed_ids)
        other._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def append(self, piece: Piece) -> None:
        """Reads on: some bytes, any number and cut anywhere, or a control token."""
        if isinstance(piece, int):
            self.tail += self._decoder.decode(b"", final=True)
            self._decoder.reset()
            if piece != BEGUN:
                self.committed_ids += [*self._encoded(self.tail), piece]
            self.tail = ""
            self.place = Place.BEHIND_CONTROL
        else:
            self.tail += self._decoder.decode(piece)

    def cover_candidates(
        self, tokens_taken_back: int = 0, word_continuations: tuple[str, ...] = ()
    ) -> list[CoverCandidate]:
        """Return the ways in which the tokenizer may have cut the text, and commit what precedes the last safe cut.

        Args:
            tokens_taken_back: How many of the last tokens other covers may take back.
            word_continuations: Letters with which a word may continue; none for the encoding as it stands alone.

        Returns:
            The encoding as it stands, with what `partial_utf8` holds pending. Then other covers: its last tokens taken
            back, and what its end becomes if a word, or the rest of the partial character, follows.
        """
        self._commit()
        tail, half = self._vocabulary.with_prefixes(self.tail, self.place), self.partial_utf8
        if half and self.waits:
            tail = " "  # which its first token will hold
        data = tail.encode()
        followed: tuple[str, ...] = ()
        if word_continuations:
            followed = tuple(tail + more for more in self._continuations(word_continuations))
        as_it_stands, *others = self._vocabulary.encode_batch([tail, *followed])
        ids, starts = as_it_stands.ids.tolist(), as_it_stands.starts.tolist()
        ends: dict[tuple[int, ...], int] = {(): 0} if half and self.waits else {tuple(ids): len(data)}
        for kept in range(len(ids) - 1, max(-1, len(ids) - 1 - tokens_taken_back), -1):
            if starts[kept] >= 0:
                ends.setdefault(tuple(ids[:kept]), starts[kept])
        for encoding in others:
            inside, end = _inside(encoding, len(data + half))
            ends.setdefault(inside, end)
        return [CoverCandidate(ids, (data + half)[end:]) for ids, end in ends.items()]

    def _continuations(self, word_continuations: tuple[str, ...]) -> tuple[str, ...]:
        """Return how the text may continue, one of each sort that matters."""
        if self.partial_utf8:
            return _completed(self.partial_utf8)
        return word_continuations if self.tail[-1:].isalpha() else (_GOES_ON,)

    def _commit(self) -> None:
        pattern = safe_cuts(self._vocabulary)
        cut = max((match.start() for match in pattern.finditer(self.tail)), default=0) if pattern else 0
        if cut:
            self.committed_ids += self._encoded(self.tail[:cut])
            self.tail = self.tail[cut:]
            self.place = Place.INSIDE

    def _encoded(self, text: str) -> list[int]:
        """The ids of a text where the tail begins."""
        return self._vocabulary.encode(self._vocabulary.with_prefixes(text, self.place)).ids.tolist()


def _completed(half: bytes) -> tuple[str, ...]:
    """Some characters that begin with these bytes."""
    missing = (half[0] >= 0xE0) + (half[0] >= 0xF0) + 2 - len(half)
    # Not every byte may follow every first byte; one of these may.
    whole = [half + fill * missing for fill in (b"\x80", b"\x9f", b"\xa0", b"\xbf")]
    return tuple(character for data in whole if (character := data.decode(errors="ignore")))


def _inside(encoding: Encoding, size: int) -> tuple[tuple[int, ...], int]:
    """The tokens that end within the first `size` bytes of an encoded text, and the byte at which they end."""
    starting = np.flatnonzero((encoding.starts >= 0) & (encoding.starts <= size))
    if not len(starting):  # white space that the tokenizer drops
        return (), 0
    kept = int(starting[-1])  # the text goes on, so a token starts where the last one ends
    return tuple(encoding.ids[:kept].tolist()), int(encoding.starts[kept])
