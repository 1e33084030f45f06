"""Which tokens may follow which: the covers of a text that a tokenizer itself would make.

Some tokens are a *cover* of a text if they spell it, or spell more of which it is the beginning, the last token
alone reaching beyond it. A cover is *valid* if the tokenizer's encoding of some text begins with these tokens. So

    - each cut between two tokens is one that the tokenizer makes, in a text that goes on suitably; a cut that is
      absent now and appears when more text follows (white space in front of a word) is one of them;
    - the last token, whose end may lie beyond the text, is judged with all of its bytes;
    - of several ids with the same bytes (`<0x41>` and `A`) the one that the tokenizer writes is valid;
    - the beginning of a valid cover is valid, so covers are a tree, and what is cut off from it never comes back.

A text is a sequence of characters: bytes that no character has are in none. "Some text" is decided by trying: the
tokens' own bytes, and these with a few continuations, one of each sort that a tokenizer may look ahead to; where the
bytes end inside of a character, all of its next bytes. Control tokens part texts: what is behind one is another.
"""

from __future__ import annotations

import codecs
import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.alignment.tokenizers.changes import mark_becomes_space
from vocabridge.byte_level.lexicon import Int8, Int64, Lexicon, Range
from vocabridge.decoding.safe_cuts import safe_cuts

UNKNOWN, VALID, INVALID = 0, 1, 2

_CONTEXTS = 256
"""For so many contexts it is remembered which tokens may follow: a byte for each token of the vocabulary."""

_HARMLESS = ("NFC: composes characters", mark_becomes_space())
"""The one change of a text for which there is a byte-exact view: such texts exist in one form, and the others have
probability 0."""

_BEHIND_DIGITS = ("0", "00")
_BEHIND_LETTERS = ("a",)
_BEHIND_OTHERS = ("a", " ", "\n", "0", ".", "ll", " a", "日")
_LAST_BYTES = (0x80, 0x9F, 0xA0, 0xBF)  # not every byte may follow every first byte; one of these may


class Following:
    """Which tokens may follow a valid cover.

    Attributes:
        lexicon: The tokens, by the order in which all are named here.
        ends: The bytes, increasing, before which the tokenizer always cuts behind a character; none for "".
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Of one tokenizer.

        Raises:
            VocabridgeError: It changes texts, so that its tokens do not spell them.
        """
        changes = [change for change in vocabulary.changes if change not in _HARMLESS]
        if changes:
            raise VocabridgeError(
                f"{vocabulary.name} has no byte-exact view: its tokenizer {', '.join(changes)}, so its tokens do not "
                "spell the text that they stand for; bridge it by projection, not byte by byte"
            )
        self.lexicon = Lexicon(vocabulary)
        self._vocabulary = vocabulary
        self._cuts = safe_cuts(vocabulary)
        self._known: OrderedDict[tuple[int, ...], Int8] = OrderedDict()
        self.ends = functools.lru_cache(maxsize=1 << 12)(self._ends_before)

    def known(self, context: tuple[int, ...]) -> Int8:
        """What is known of the tokens behind some others, int8 (m,): `VALID`, `INVALID`, or `UNKNOWN` so far."""
        found = self._known.get(context)
        if found is None:
            found = self._known[context] = np.zeros(len(self.lexicon.ids), np.int8)
            if len(self._known) > _CONTEXTS:
                self._known.popitem(last=False)
        self._known.move_to_end(context)
        return found

    def parts(self, tokens: tuple[int, ...]) -> list[tuple[Range, tuple[int, ...]]]:
        """By what it has to be judged whether a token may follow some others.

        Args:
            tokens: Those in front, from a place on where the tokenizer always cuts.

        Returns:
            Runs that cover all tokens, in their order, and for each what stands in front that matters: nothing for
            tokens before which the tokenizer always cuts, else the tokens in front.
        """
        everything = (0, len(self.lexicon.ids))
        if not tokens:
            return [(everything, ())]
        # What cuts depends on the last character; the first bytes of it may be in tokens before.
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        written = decoder.decode(b"".join(self._vocabulary.token_bytes[i] or b"" for i in tokens[-4:]))
        last = "" if decoder.getstate()[0] else written[-1:]
        bounds = self.lexicon.bounds(everything, 0)
        parts: list[tuple[Range, tuple[int, ...]]] = []
        at = 0
        for byte in self.ends(last):
            low, high = int(bounds[byte]), int(bounds[byte + 1])
            parts += [((at, low), tokens), ((low, high), ())]
            at = high
        return [*parts, ((at, everything[1]), tokens)]

    def context(self, tokens: tuple[int, ...], at: int) -> tuple[int, ...]:
        """Those of some tokens that matter for what follows a token behind them, the one at this place, itself last."""
        front = next(front for (low, high), front in self.parts(tokens) if low <= at < high)
        return (*front, int(self.lexicon.ids[at]))

    def settled(self, text: str) -> int:
        """The last place in a text at which its tokenizer always cuts, whatever follows; 0 if there is none."""
        return max((match.start() for match in self._cuts.finditer(text)), default=0) if self._cuts else 0

    def judge(self, context: tuple[int, ...], tokens: Int64) -> None:
        """Finds out which of some tokens may follow; afterwards it is `known`.

        Args:
            context: What stands in front, as `parts` gives it.
            tokens: Places in the order of the lexicon, int64.
        """
        found = self.known(context)
        open_ = tokens[found[tokens] == UNKNOWN].tolist()
        front = b"".join(self._vocabulary.token_bytes[i] or b"" for i in context)
        spelled = [front + self.lexicon.tokens[at] for at in open_]
        expected = [[*context, int(self.lexicon.ids[at])] for at in open_]
        for ways in (as_it_stands, going_on):
            texts: list[str] = []
            owner: list[int] = []
            for i, data in enumerate(spelled):
                several = ways(data)
                texts += several
                owner += [i] * len(several)
            valid = np.zeros(len(open_), bool)
            for i, ids in zip(owner, self.encode_batch(texts), strict=True):
                valid[i] |= ids[: len(expected[i])] == expected[i]
            found[[at for at, is_valid in zip(open_, valid, strict=True) if is_valid]] = VALID
            rest = np.flatnonzero(~valid).tolist()
            open_, spelled, expected = ([several[i] for i in rest] for several in (open_, spelled, expected))
        found[open_] = INVALID

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, those of special tokens that it spells among them."""
        return tuple(self.encode_batch([text])[0])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of each of several texts."""
        return self._vocabulary.ids_batch(texts)

    def _ends_before(self, last: str) -> Iterable[int]:
        """The bytes, increasing, before which the tokenizer always cuts behind this character."""
        if self._cuts is None or not last:
            return ()
        return [byte for byte in b"\n " if self._cuts.match(f"{last}{chr(byte)}", 1)]


def half_character(data: bytes) -> bytes | None:
    """The beginning of a character at the end of some bytes; None if they are in no text."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[error.start :] if error.reason == "unexpected end of data" else None
    return b""


def as_it_stands(data: bytes) -> list[str]:
    """The text that some bytes are; where they end inside of a character, some that begin with them."""
    half = half_character(data)
    if half is None:
        return []
    return [data.decode()] if not half else _completed(data, half, _LAST_BYTES)


def going_on(data: bytes) -> list[str]:
    """Other texts that begin with some bytes."""
    half = half_character(data)
    if half is None:
        return []
    if half:
        return _completed(data, half, range(0x80, 0xC0))
    text = data.decode()
    several = _BEHIND_LETTERS if text[-1:].isalpha() else _BEHIND_OTHERS
    return [text + more for more in (_BEHIND_DIGITS if text[-1:].isdecimal() else several)]


def _completed(data: bytes, half: bytes, following: Iterable[int]) -> list[str]:
    """Texts that complete the last character by these next bytes, and by a few behind them."""
    missing = (half[0] >= 0xE0) + (half[0] >= 0xF0) + 2 - len(half)
    texts = []
    for byte in following:
        for last in _LAST_BYTES if missing > 1 else (0x80,):
            try:
                texts.append((data + bytes([byte]) + bytes([last]) * (missing - 1)).decode())
            except UnicodeDecodeError:
                continue
    return texts
