"""Incremental re-tokenisation: a value network reads the text that another model writes, in its own tokens.

Text arrives in pieces that follow another tokenizer. At any time the reader's ids equal the encoding of all text so
far from scratch, and its covers are the ways in which its tokenizer may have cut that text if more is to follow.

Encoding everything anew on each token would cost the square of the text's length, so the reader encodes from
the last *safe cut* only: a place between two characters of such kinds (a letter or digit and a space, say) that no
token of the vocabulary spans it (checked once per vocabulary). No merge can cross it, and what is on its left is
settled for good. A vocabulary that has a token across such places, or a pre-tokenizer that treats the two halves
otherwise than the whole, has no safe cuts of that kind; without any, a text is encoded from its start each time.
"""

from __future__ import annotations

import codecs
import copy
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from vocabridge.alignment import Encoding, Vocabulary
from vocabridge.alignment.panics import panics_as_errors

Piece: TypeAlias = bytes | int
"""What a text grows by: some of its bytes, or a control token of the source's (which no text spells)."""

_TAKEN_BACK = 2
"""How many of the last tokens a cover may take back: a longer token than the bytes of two is rare."""

_GOES_ON = "a"
"""How a text goes on. Where it ends in white space, what that becomes before a word is another cover; other
continuations (digits, punctuation, further space) added nothing that could be measured."""

WORD_GOES_ON = tuple("etaoinsrhldf")
"""How a word goes on: the target may have cut a name in two where the source would have cut elsewhere. Rarer letters
found next to nothing more."""


@dataclass(frozen=True)
class _Place:
    """A kind of place in a text.

    Attributes:
        cut: Where it is: a pattern of width 0.
        spanning: What a token that stands across such a place contains, as bytes; some that do not match, too.
        probes: Beginnings and ends of texts that meet at such a place.
    """

    cut: str
    spanning: re.Pattern[bytes]
    probes: tuple[tuple[str, ...], tuple[str, ...]]


_WORDS = ("a", "The word", "x1", "12", "naïve fo", "  f", "def f", "日本a", "it's", "A\nb", "İB", "мир", "日本", "½")
_SPACES = (" ", "  ", " a", "  b", " 1", " \n", " é", " 日", " .", " '", " \t", "   c d", " 🙂")
_LINES = ("\n", "\n\n", "\n a")
_STOPS = ("日本。", "ab，", "カナ、", "12：", "é！", " ？", "。。")  # noqa: RUF001
_LETTERS = ("日", "カナ", "ひらがな", "国a", "한국", "的 x", "中。")

_PLACES = (
    _Place(
        cut=r"(?<=[^\W_])(?= )",
        spanning=re.compile(rb"[A-Za-z0-9\x80-\xff] "),
        probes=(_WORDS, _SPACES),
    ),
    _Place(
        cut=r"(?<=[^\W_])(?=\n)",
        spanning=re.compile(rb"[A-Za-z0-9\x80-\xff]\n"),
        probes=(_WORDS, _LINES),
    ),
    _Place(
        cut="(?<=[、。！，：；？])(?=[ぁ-ゖァ-ヺ㐀-䶿一-鿿가-힣])",  # noqa: RUF001
        spanning=re.compile(
            rb"(?:\xe3\x80[\x81\x82]|\xef\xbc[\x81\x8c\x9a\x9b\x9f]|^\x80?[\x81\x82]|^\xbc?[\x81\x8c\x9a\x9b\x9f])"
            rb"(?:[\xe4-\xed]|\xe3(?!\x80))"
        ),
        probes=(_STOPS, _LETTERS),
    ),
)


@lru_cache(maxsize=32)
def safe_cuts(vocabulary: Vocabulary) -> re.Pattern[str] | None:
    """The places of a text at which encoding always splits; None if there are no such places."""
    safe = [place.cut for place in _PLACES if _is_safe(vocabulary, place)]
    return re.compile("|".join(safe)) if safe else None


def _is_safe(vocabulary: Vocabulary, place: _Place) -> bool:
    if any(data is not None and place.spanning.search(data) for data in vocabulary.token_bytes):
        return False
    # A token that is matched in the raw text stands for no bytes if it is special, and may swallow spaces.
    for token in vocabulary.tokenizer.get_added_tokens_decoder().values():
        if place.spanning.search(token.content.encode()) or token.rstrip:
            return False
    lefts, rights = place.probes
    texts = [text for left in lefts for right in rights for text in (left, right, left + right)]
    parts = [[encoding.ids.tolist() for encoding in vocabulary.encode_batch(texts)]]
    if isinstance(vocabulary.tokenizer.model, Unigram):
        # Of two ways to cut that are equally likely (## and ###, ### and ##) it takes one by what was added up before
        # them: only where the text is parted before it is cut is what is behind the place cut as by itself.
        with panics_as_errors(vocabulary.name):
            parts.append([_words(vocabulary.tokenizer, text) for text in texts])
    return all(found[i] + found[i + 1] == found[i + 2] for found in parts for i in range(0, len(texts), 3))


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """What a text is parted into before each part is cut into tokens."""
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] if tokenizer.pre_tokenizer else [text]


def begin_tokens(vocabulary: Vocabulary) -> list[int]:
    """The ids that stand in front of every text: the begin token where the model expects it, else none."""
    return [vocabulary.roles["begin"]] if vocabulary.adds_begin else []


@dataclass(frozen=True)
class Cover:
    """One way in which the source may have cut the text so far.

    Attributes:
        ids: The tokens behind the settled ones.
        pending: What is left of the text: the source's next token begins with these bytes and runs on.
    """

    ids: tuple[int, ...]
    pending: bytes


class Reader:
    """The value network's view of one growing text.

    Bytes that end inside a UTF-8 character wait until the character is whole. Bytes that can never become a
    character are read as U+FFFD, as any decoder would show them. A control token ends the text in front of it for
    good; what follows is encoded by itself, as transformers does.

    Attributes:
        settled: The ids before the last safe cut; they never change again. Treat it as read-only.
        tail: The text behind it, whole characters only.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts with the empty text, and the begin token where the model expects it."""
        self.settled = begin_tokens(vocabulary)
        self.tail = ""
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def half(self) -> bytes:
        """The beginning of a character, where the text ends inside one."""
        return self._decoder.getstate()[0]

    @property
    def ids(self) -> list[int]:
        """The encoding of all whole characters so far, the begin token in front."""
        return self.settled + self._vocabulary.encode(self.tail).ids.tolist()

    def copy(self) -> Reader:
        """An independent reader of the same text."""
        other = copy.copy(self)
        other.settled = list(self.settled)
        other._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def push(self, piece: Piece) -> None:
        """Reads on: some bytes, any number and cut anywhere, or a control token."""
        if isinstance(piece, int):
            self.tail += self._decoder.decode(b"", final=True)
            self._decoder.reset()
            self.settled += [*self._vocabulary.encode(self.tail).ids.tolist(), piece]
            self.tail = ""
        else:
            self.tail += self._decoder.decode(piece)

    def covers(self, *, all_ways: bool) -> list[Cover]:
        """The ways in which the tokenizer may have cut the text; settles what is before the last safe cut.

        Args:
            all_ways: Give other ways, too, than the text as it stands.

        Returns:
            The encoding as it stands, with what `half` holds pending; then the others, if wanted: its last tokens
            taken back, and what its end becomes if a word, or the rest of the half character, follows.
        """
        self._settle()
        data, half = self.tail.encode(), self.half
        followed: tuple[str, ...] = ()
        if all_ways:
            followed = tuple(self.tail + more for more in self._continuations())
        as_it_stands, *others = self._vocabulary.encode_batch([self.tail, *followed])
        ids, starts = as_it_stands.ids.tolist(), as_it_stands.starts.tolist()
        ends = {tuple(ids): len(data)}
        if all_ways:
            for kept in range(len(ids) - 1, max(-1, len(ids) - 1 - _TAKEN_BACK), -1):
                if starts[kept] >= 0:
                    ends.setdefault(tuple(ids[:kept]), starts[kept])
            for encoding in others:
                inside, end = _inside(encoding, len(data + half))
                ends.setdefault(inside, end)
        return [Cover(ids, (data + half)[end:]) for ids, end in ends.items()]

    def _continuations(self) -> tuple[str, ...]:
        """How the text may go on, one of each sort that matters."""
        if self.half:
            return _completed(self.half)
        return WORD_GOES_ON if self.tail[-1:].isalpha() else (_GOES_ON,)

    def _settle(self) -> None:
        pattern = safe_cuts(self._vocabulary)
        cut = max((match.start() for match in pattern.finditer(self.tail)), default=0) if pattern else 0
        if cut:
            self.settled += self._vocabulary.encode(self.tail[:cut]).ids.tolist()
            self.tail = self.tail[cut:]


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
