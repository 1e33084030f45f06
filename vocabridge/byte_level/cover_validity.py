"""Which tokens may follow which: the covers of a text that its tokenizer could write.

A *cover* of a text is a sequence of tokens that spells the text, or whose last token reaches beyond its end. A cover is
*valid* if the tokenizer's encoding of some text begins with these tokens. It follows that

    - each cut between two tokens is one that the tokenizer makes if the text continues suitably. Some cuts, such as one
      within white space before a word, appear only when more text follows;
    - the last token is judged with all of its bytes, also those beyond the end of the text;
    - of several ids with the same bytes (`<0x41>` and `A`), the one that the tokenizer writes is valid;
    - every beginning of a valid cover is valid, so the valid covers are a tree.

A text is a sequence of characters, so bytes that are not valid UTF-8 are in no text. Whether "some text" exists is
decided by trying: the bytes of the tokens alone, then with a few continuations, one of each sort that a tokenizer may
look ahead to. If the bytes end inside a character, all possible next bytes are tried. Control tokens separate texts.
"""

from __future__ import annotations

import codecs
import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.alignment.arrays import Int8, Int64
from vocabridge.alignment.tokenizers.changes import mark_becomes_space
from vocabridge.byte_level.lexicon import Lexicon, TokenRange
from vocabridge.decoding.safe_cuts import safe_cuts

UNKNOWN, VALID, INVALID = 0, 1, 2

_MAX_CONTEXTS = 256
"""The number of contexts whose results are cached; each takes a byte for every token of the vocabulary."""

_HARMLESS = ("NFC: composes characters", mark_becomes_space())
"""Changes of a text that leave a byte-exact view: texts in the changed form are spelled exactly, and all others have
probability 0."""

_AFTER_DIGITS = ("0", "00")
_AFTER_LETTERS = ("a",)
_AFTER_OTHERS = ("a", " ", "\n", "0", ".", "ll", " a", "日")
_LAST_BYTES = (0x80, 0x9F, 0xA0, 0xBF)  # after any first byte of a character, at least one of these is possible


class CoverValidity:
    """Which tokens may follow a valid cover.

    A *context* is the part of a cover that decides which tokens may follow: its tokens after the last safe cut.

    Attributes:
        lexicon: The tokens; methods name a token by its lexicon index.
        safe_cut_bytes: Returns the bytes, in ascending order, before which the tokenizer always cuts after a character;
            none after "".
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepare for one tokenizer.

        Raises:
            VocabridgeError: The tokenizer changes texts, so its tokens do not spell them.
        """
        changes = [change for change in vocabulary.changes if change not in _HARMLESS]
        if changes:
            raise VocabridgeError(
                f"{vocabulary.name} has no byte-exact view: its tokenizer {', '.join(changes)}, so its tokens do not "
                "spell the text that they stand for; use a projected bridge, not the byte level"
            )
        self.lexicon = Lexicon(vocabulary)
        self._vocabulary = vocabulary
        self._safe_cuts = safe_cuts(vocabulary)
        self._status: OrderedDict[tuple[int, ...], Int8] = OrderedDict()
        self.safe_cut_bytes = functools.lru_cache(maxsize=1 << 12)(self._find_safe_cut_bytes)

    def status(self, context: tuple[int, ...]) -> Int8:
        """Return whether each token may follow a context: `VALID`, `INVALID`, or `UNKNOWN` so far; int8 (m,)."""
        status = self._status.get(context)
        if status is None:
            status = self._status[context] = np.zeros(len(self.lexicon.ids), np.int8)
            if len(self._status) > _MAX_CONTEXTS:
                self._status.popitem(last=False)
        self._status.move_to_end(context)
        return status

    def contexts(self, tokens: tuple[int, ...]) -> list[tuple[TokenRange, tuple[int, ...]]]:
        """Return the context on which it depends whether each token may follow a cover.

        Args:
            tokens: The ids of the cover's tokens, from a safe cut on.

        Returns:
            Ranges that partition the lexicon, in ascending order, each with its context: () for tokens before which
            the tokenizer always cuts, else `tokens`.
        """
        everything = (0, len(self.lexicon.ids))
        if not tokens:
            return [(everything, ())]
        # Safe cuts depend on the last character, whose first bytes may be in earlier tokens.
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        text = decoder.decode(b"".join(self._vocabulary.token_bytes[i] or b"" for i in tokens[-4:]))
        last_character = "" if decoder.getstate()[0] else text[-1:]
        bounds = self.lexicon.bounds(everything, 0)
        contexts: list[tuple[TokenRange, tuple[int, ...]]] = []
        start = 0
        for byte in self.safe_cut_bytes(last_character):
            low, high = int(bounds[byte]), int(bounds[byte + 1])
            contexts += [((start, low), tokens), ((low, high), ())]
            start = high
        return [*contexts, ((start, everything[1]), tokens)]

    def context_after(self, tokens: tuple[int, ...], index: int) -> tuple[int, ...]:
        """Return the context after a cover's tokens and one more token, given by its lexicon index."""
        context = next(context for (low, high), context in self.contexts(tokens) if low <= index < high)
        return (*context, int(self.lexicon.ids[index]))

    def last_safe_cut(self, text: str) -> int:
        """Return the last index in a text at which its tokenizer always cuts, whatever follows; 0 if there is none."""
        return max((match.start() for match in self._safe_cuts.finditer(text)), default=0) if self._safe_cuts else 0

    def check(self, context: tuple[int, ...], indices: Int64) -> None:
        """Find out which of some tokens may follow a context, so that their `status` is known.

        Args:
            context: A context, as `contexts` returns it.
            indices: Lexicon indices of the tokens, int64.
        """
        status = self.status(context)
        unknown = indices[status[indices] == UNKNOWN].tolist()
        context_bytes = b"".join(self._vocabulary.token_bytes[i] or b"" for i in context)
        spelled = [context_bytes + self.lexicon.tokens[index] for index in unknown]
        expected = [[*context, int(self.lexicon.ids[index])] for index in unknown]
        for texts_of in (shortest_texts, longer_texts):
            texts: list[str] = []
            owners: list[int] = []
            for i, data in enumerate(spelled):
                candidates = texts_of(data)
                texts += candidates
                owners += [i] * len(candidates)
            valid = np.zeros(len(unknown), bool)
            for i, ids in zip(owners, self.encode_batch(texts), strict=True):
                valid[i] |= ids[: len(expected[i])] == expected[i]
            status[[index for index, is_valid in zip(unknown, valid, strict=True) if is_valid]] = VALID
            rest = np.flatnonzero(~valid).tolist()
            unknown, spelled, expected = ([values[i] for i in rest] for values in (unknown, spelled, expected))
        status[unknown] = INVALID

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text; a special token that the text spells out is encoded as its id."""
        return tuple(self.encode_batch([text])[0])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` does."""
        return self._vocabulary.ids_batch(texts)

    def _find_safe_cut_bytes(self, last_character: str) -> Iterable[int]:
        if self._safe_cuts is None or not last_character:
            return ()
        return [byte for byte in b"\n " if self._safe_cuts.match(f"{last_character}{chr(byte)}", 1)]


def partial_utf8(data: bytes) -> bytes | None:
    """Return the incomplete character at the end of some bytes, b"" if there is none; None if no text has the bytes."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[error.start :] if error.reason == "unexpected end of data" else None
    return b""


def shortest_texts(data: bytes) -> list[str]:
    """Return the text that some bytes encode, or if they end inside a character, a few texts that complete it."""
    partial = partial_utf8(data)
    if partial is None:
        return []
    return _completed(data, partial, _LAST_BYTES) if partial else [data.decode()]


def longer_texts(data: bytes) -> list[str]:
    """Return further texts that begin with some bytes, one of each sort that a tokenizer may look ahead to."""
    partial = partial_utf8(data)
    if partial is None:
        return []
    if partial:
        return _completed(data, partial, range(0x80, 0xC0))
    text = data.decode()
    continuations = _AFTER_LETTERS if text[-1:].isalpha() else _AFTER_OTHERS
    return [text + continuation for continuation in (_AFTER_DIGITS if text[-1:].isdecimal() else continuations)]


def _completed(data: bytes, partial: bytes, next_bytes: Iterable[int]) -> list[str]:
    """Return texts that complete the last character with each next byte, and with a few more bytes if it needs them."""
    missing = (partial[0] >= 0xE0) + (partial[0] >= 0xF0) + 2 - len(partial)
    texts = []
    for byte in next_bytes:
        for last in _LAST_BYTES if missing > 1 else (0x80,):
            try:
                texts.append((data + bytes([byte]) + bytes([last]) * (missing - 1)).decode())
            except UnicodeDecodeError:
                continue
    return texts
