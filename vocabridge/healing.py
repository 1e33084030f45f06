"""`heal`: what the source says after a text whose end need not be the end of one of its tokens.

A text so far ends where the *target* has a boundary. The source may have cut it in several ways (covers): its
own tokens up to some byte, and pending bytes that its next token has to begin with. Which one it would be
depends on text still to come: " the" after a line break and four spaces takes the last space with it. So the
model is asked after each cover, and its probabilities decide between them:

    p(r) = sum over covers (s, p) of  P(s) * P(w | s),   w = p + r

P(s) is the probability of the cover's tokens after those that all covers share, w runs over the source tokens
that begin with the pending bytes (one run of the vocabulary sorted by bytes), and r is the rest of w behind
the text's end, again a source token or the first piece of one. Tokens across which the target would not have
ended its last token count next to nothing: the target did end it. The result is a distribution over the source
vocabulary, so that every carry works on it as on the model's own.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vocabridge.alignment import Encoding, Vocabulary
from vocabridge.alignment.vocabulary import Int64
from vocabridge.reader import SAFE_CUT, has_safe_cuts

Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_TAKEN_BACK = 4
"""How many of the last tokens a cover may take back; a longer token than their bytes is rare."""

_CONTINUATIONS = ("a", "A", " a", "1", " ", "\n", ".", ",", "(", ")", "_", "'", '"', "=", ":", "é", "日")
"""How texts go on, one of each sort: what the source's last tokens become then are its other covers."""

_UNLIKELY = 0.01
"""What a source token counts across which the target's last token would not have ended, were it all that follows."""


@dataclass(frozen=True)
class Cover:
    """One way in which the source may have cut a text.

    Attributes:
        head: The bytes of the text before the last safe cut, encoded apart.
        ids: The tokens behind it.
        pending: What is left of the text: the source's next token begins with these bytes and runs on.
    """

    head: int
    ids: tuple[int, ...]
    pending: bytes


def covers(vocabulary: Vocabulary, texts: Sequence[bytes]) -> list[list[Cover]]:
    """Find the covers of each of these texts.

    Args:
        vocabulary: The source's.
        texts: Beginnings of UTF-8 texts; one may end inside a character.

    Returns:
        For each text its covers; the first has no pending bytes where the text ends with a whole character.
    """
    cuts = has_safe_cuts(vocabulary)
    heads, tails, halves = [], [], []
    for data in texts:
        text = data.decode(errors="ignore")
        cut = max((match.start() for match in SAFE_CUT.finditer(text)), default=0) if cuts else 0
        heads.append(len(text[:cut].encode()))
        tails.append(text[cut:])
        halves.append(data[len(text.encode()) :])
    goes_on = [_completed(half) if half else _CONTINUATIONS for half in halves]
    followed = [tail + more for tail, several in zip(tails, goes_on, strict=True) for more in ("", *several)]
    encodings = iter(vocabulary.encode_batch(followed))
    found = []
    for head, tail, half, several in zip(heads, tails, halves, goes_on, strict=True):
        data = tail.encode()
        as_it_stands = next(encodings)
        ids, starts = as_it_stands.ids.tolist(), as_it_stands.starts.tolist()
        settled = {tuple(ids): len(data)}
        for kept in range(max(0, len(ids) - _TAKEN_BACK), len(ids)):
            if starts[kept] >= 0:
                settled.setdefault(tuple(ids[:kept]), starts[kept])
        for _ in several:
            inside, end = _inside(next(encodings), len(data + half))
            settled.setdefault(inside, end)
        found.append([Cover(head, kept, (data + half)[end:]) for kept, end in settled.items()])
    return found


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


@dataclass(frozen=True)
class Asked:
    """A cover with what the model says of it.

    Attributes:
        pending: As the cover's.
        weight: log P(s), up to a constant that all covers share.
        log_p: The model's natural log-probabilities after the cover, (|S|,).
    """

    pending: bytes
    weight: float
    log_p: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Healed:
    """The source's distribution behind a text's end.

    Attributes:
        p: (|S|,), sums to 1 but for what the source cannot spell; all 0 if it has no token for the pending bytes.
        across: The share of it that comes from tokens that run across the end.
        log_total: The logarithm of all mass before it was divided by it; of no use where there is none.
    """

    p: Float64
    across: float
    log_total: float


class Healer:
    """Heals distributions of one source vocabulary at the boundaries of one target vocabulary."""

    def __init__(self, source: Vocabulary, target: Vocabulary) -> None:
        """Sorts the source's tokens by their bytes."""
        self._source, self._target = source, target
        self._sorted = sorted(source.canonical)
        self._ids = np.array([source.canonical[data] for data in self._sorted], np.int64)
        self.rests = functools.lru_cache(maxsize=1 << 12)(self._rests)
        self._plausibility = functools.lru_cache(maxsize=1 << 10)(self._judged)

    def heal(self, asked: Sequence[Asked], last: int) -> Healed:
        """Sum up the covers of a text.

        Args:
            asked: The covers; not empty.
            last: The target's last token of the text.
        """
        highest = max(one.weight for one in asked)
        total = np.zeros(self._source.size + 1)  # the last is for rests that the source cannot spell
        across = 0.0
        for one in asked:
            weight = math.exp(one.weight - highest)
            if not one.pending:
                total[:-1] += weight * np.exp(one.log_p, dtype=np.float64)
                continue
            run = self.run(one.pending)
            if len(run):
                mass = weight * np.exp(one.log_p[run], dtype=np.float64) * self._plausibility(last, one.pending)
                across += float(mass.sum())
                np.add.at(total, self.rests(one.pending), mass)
        everything = float(total.sum())
        if not everything:
            return Healed(total[:-1], 1.0, highest)
        return Healed(total[:-1] / everything, across / everything, highest + math.log(everything))

    def share(self, healed: Healed, one: Asked, token: int, last: int) -> float:
        """The share of a healed distribution that comes from one source token after one cover."""
        mass = math.exp(one.weight + float(one.log_p[token]) - healed.log_total)
        if not one.pending:
            return mass
        place = np.flatnonzero(self.run(one.pending) == token)
        return mass * float(self._plausibility(last, one.pending)[place].sum())

    def run(self, pending: bytes) -> Int64:
        """The source tokens that begin with these bytes and are longer, sorted by their bytes."""
        low = bisect.bisect_right(self._sorted, pending)
        return self._ids[low : bisect.bisect_left(self._sorted, _behind(pending), low)]

    def _rests(self, pending: bytes) -> Int64:
        """For each token of the run, the source token that its rest is or begins with; -1 for none."""
        rests = [self._bytes(w)[len(pending) :] for w in self.run(pending).tolist()]
        whole = [self._source.canonical.get(rest) for rest in rests]
        pieces = iter(self._source.segment_batch([r for r, w in zip(rests, whole, strict=True) if w is None]))
        return np.array([(next(pieces) or (-1,))[0] if w is None else w for w in whole], np.int64)

    def _judged(self, last: int, pending: bytes) -> Float64:
        """For each token of the run: 1 where the target ends `last` at the text's end, else next to nothing."""
        before = self._target.token_bytes[last]
        run = self.run(pending).tolist()
        if before is None:
            return np.ones(len(run))
        cut = self._target.segment_batch([before + self._bytes(w)[len(pending) :] for w in run])
        return np.array([1.0 if len(ids) > 1 and ids[0] == last else _UNLIKELY for ids in cut])

    def _bytes(self, token: int) -> bytes:
        return self._source.token_bytes[token] or b""


def _behind(prefix: bytes) -> bytes:
    """The least byte string greater than all that begin with the prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else prefix + b"\xff" * 64
