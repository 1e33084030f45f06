"""Incremental tokenization: the tokens of a source model for a text that grows by another model's tokens.

The text arrives in pieces that end at the boundaries of another tokenizer. At any time the ids equal the encoding of
the complete text so far. The cover candidates are the tokenizations that the text so far may have if more text follows.

To encode the complete text after each piece would take quadratic time. So only the text after the last *safe cut* is
encoded again (see `safe_cuts`), and the tokens before it are committed. Without a safe cut, the complete text is
encoded each time.
"""

from __future__ import annotations

import codecs
import copy
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Encoding, Place, Rule, Vocabulary
from vocabridge.decoding.safe_cuts import safe_cuts
from vocabridge.models.prompts import BOS_READ, Piece

_CONTINUATION = "a"
"""Continuation of a text that does not end in a letter. If the text ends in white space, the tokens of that white space
in front of a word are another cover. Other continuations (digits, punctuation, more white space) had no measurable
effect."""


@dataclass(frozen=True)
class CoverCandidate:
    """A possible tokenization of the text so far, whose last bytes may belong to the next token.

    Attributes:
        ids: The tokens after the committed ones.
        pending: The bytes after these tokens, with which the source's next token begins.
    """

    ids: tuple[int, ...]
    pending: bytes


class IncrementalTokenizer:
    """A tokenizer for one growing text.

    Bytes of an incomplete UTF-8 character wait until the character is complete. Invalid bytes become U+FFFD. A control
    token ends the text in front of it, and the text after it is encoded separately, as in transformers.

    Attributes:
        committed_ids: The ids before the last safe cut, which never change. Treat it as read-only.
        tail: The complete characters after the last safe cut.
        place: Where `tail` begins, which decides whether the tokenizer puts a space in front of it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Start with the empty text, after the bos token if the model expects one."""
        self.committed_ids = vocabulary.bos_ids
        self.tail = ""
        self.place = Place.BEGINNING
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def partial_utf8(self) -> bytes:
        """Bytes of an incomplete character at the end of the text; empty if there is none."""
        return self._decoder.getstate()[0]

    @property
    def ids(self) -> list[int]:
        """Encoding of all complete characters so far, after the bos token if the model expects one."""
        return self.committed_ids + self._encode(self.tail)

    @property
    def awaits_prefix_space(self) -> bool:
        """Whether `tail` is empty and the tokenizer would put a space in front of its text."""
        return not self.tail and self._vocabulary.prefix_space.rule(self.place) is not Rule.NEVER

    def copy(self) -> IncrementalTokenizer:
        """Return an independent copy."""
        clone = copy.copy(self)
        clone.committed_ids = list(self.committed_ids)
        clone._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        clone._decoder.setstate(self._decoder.getstate())
        return clone

    def append(self, piece: Piece) -> None:
        """Append a control token, or bytes, which may end inside a character."""
        if isinstance(piece, int):
            self.tail += self._decoder.decode(b"", final=True)
            self._decoder.reset()
            if piece != BOS_READ:
                self.committed_ids += [*self._encode(self.tail), piece]
            self.tail = ""
            self.place = Place.AFTER_CONTROL
        else:
            self.tail += self._decoder.decode(piece)

    def cover_candidates(
        self, tokens_taken_back: int = 0, word_continuations: tuple[str, ...] = ()
    ) -> list[CoverCandidate]:
        """Return the possible tokenizations of the text so far, and commit the tokens before the last safe cut.

        Args:
            tokens_taken_back: How many of the last tokens an alternative cover may take back.
            word_continuations: Letters with which a word may continue; without any, only the encoding of the text so
                far is returned, and the covers that take back tokens.

        Returns:
            First the encoding of the text so far, with `partial_utf8` as its pending bytes. Then the alternative
            covers: the encoding without its last tokens, and the tokens that the text has if a word or the rest of
            the incomplete character follows.
        """
        self._commit()
        tail, partial = self._vocabulary.with_prefixes(self.tail, self.place), self.partial_utf8
        is_prefix_space_open = bool(partial) and self.awaits_prefix_space
        if is_prefix_space_open:
            tail = " "  # the first token of the incomplete character will hold this space
        data = tail.encode()
        continued: tuple[str, ...] = ()
        if word_continuations:
            continued = tuple(tail + continuation for continuation in self._continuations(word_continuations))
        plain, *continued_encodings = self._vocabulary.encode_batch([tail, *continued])
        ids, starts = plain.ids.tolist(), plain.starts.tolist()
        ends: dict[tuple[int, ...], int] = {(): 0} if is_prefix_space_open else {tuple(ids): len(data)}
        for size in range(len(ids) - 1, max(-1, len(ids) - 1 - tokens_taken_back), -1):
            if starts[size] >= 0:
                ends.setdefault(tuple(ids[:size]), starts[size])
        for encoding in continued_encodings:
            inside, end = _tokens_inside(encoding, len(data + partial))
            ends.setdefault(inside, end)
        return [CoverCandidate(ids, (data + partial)[end:]) for ids, end in ends.items()]

    def _continuations(self, word_continuations: tuple[str, ...]) -> tuple[str, ...]:
        """Return the continuations of the text that may change its last tokens."""
        if self.partial_utf8:
            return _completions(self.partial_utf8)
        return word_continuations if self.tail[-1:].isalpha() else (_CONTINUATION,)

    def _commit(self) -> None:
        pattern = safe_cuts(self._vocabulary)
        cut = max((match.start() for match in pattern.finditer(self.tail)), default=0) if pattern else 0
        if cut:
            self.committed_ids += self._encode(self.tail[:cut])
            self.tail = self.tail[cut:]
            self.place = Place.INSIDE

    def _encode(self, text: str) -> list[int]:
        """Encode a text at the place where the tail begins."""
        return self._vocabulary.encode(self._vocabulary.with_prefixes(text, self.place)).ids.tolist()


def _completions(partial: bytes) -> tuple[str, ...]:
    """Return characters that begin with the bytes of an incomplete character."""
    missing = (partial[0] >= 0xE0) + (partial[0] >= 0xF0) + 2 - len(partial)
    # Not every byte may follow every first byte, but one of these may.
    candidates = [partial + fill * missing for fill in (b"\x80", b"\x9f", b"\xa0", b"\xbf")]
    return tuple(character for data in candidates if (character := data.decode(errors="ignore")))


def _tokens_inside(encoding: Encoding, size: int) -> tuple[tuple[int, ...], int]:
    """Return the tokens that end within the first `size` bytes of an encoded text, and the byte at which they end."""
    candidates = np.flatnonzero((encoding.starts >= 0) & (encoding.starts <= size))
    if not len(candidates):  # the tokenizer drops white space
        return (), 0
    last = int(candidates[-1])  # this token starts where the last token inside ends, because the text continues
    return tuple(encoding.ids[:last].tolist()), int(encoding.starts[last])
