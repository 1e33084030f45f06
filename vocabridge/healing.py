"""`heal`: what the source says after a text whose end need not be the end of one of its tokens.

A text so far ends where the *target* has a boundary. The source may have cut it in several ways (covers, see
`reader`): its own tokens up to some byte, and pending bytes that its next token has to begin with. Which one it
would be depends on text still to come: " the" after a line break and four spaces takes the last space with it. So
the model is asked after each cover, and its probabilities decide between them:

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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vocabridge.alignment import Vocabulary

_UNLIKELY = 0.001
"""What a source token counts across which the target's last token would not have ended, were it all that follows."""


@dataclass(frozen=True)
class Run:
    """The source tokens that begin with some pending bytes and are longer.

    Attributes:
        ids: Their ids, sorted by their bytes, int64 (m,).
        rests: The source token that each one's rest is or begins with, int64 (m,); |S| for none.
        sorts: By which character each rest begins, index into `samples`, int64 (m,).
        samples: The shortest rest of each sort.
    """

    ids: Tensor
    rests: Tensor
    sorts: Tensor
    samples: tuple[bytes, ...]


class Healer:
    """Heals distributions of one source vocabulary at the boundaries of one target vocabulary."""

    def __init__(self, source: Vocabulary, target: Vocabulary) -> None:
        """Sorts the source's tokens by their bytes."""
        self._source, self._target = source, target
        self._sorted = sorted(source.canonical)
        self._ids = [source.canonical[data] for data in self._sorted]
        self.run = functools.lru_cache(maxsize=1 << 10)(self._run)
        self._ended = functools.lru_cache(maxsize=1 << 14)(self._judged)

    def may_run_on(self, pending: bytes, last: int) -> bool:
        """Whether there is a source token for the pending bytes across which the target would end its `last`."""
        return bool(self._ended(pending, last).any())

    def heal(
        self, pendings: Sequence[bytes], weights: Tensor, log_p: Tensor, last: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums up the covers of a text.

        Args:
            pendings: The bytes that each of k covers leaves pending.
            weights: log P(s) of each, (k,), up to a constant that they share.
            log_p: The model's natural log-probabilities after each, float32 (k, |S|).
            last: The target's last token of the text.

        Returns:
            The distribution (|S|,): it sums to 1 but for what the source cannot spell, and is 0 everywhere if it has
            no token for the pending bytes; the share of it that comes from tokens that run across the text's end;
            and log of all mass before it was divided by it.
        """
        size, device = log_p.shape[1], log_p.device
        total = log_p.new_zeros(size + 1)  # the last is for rests that the source cannot spell
        across = log_p.new_zeros(())
        runs = [self.run(pending) if pending else None for pending in pendings]
        joint = [
            weight + (said if run is None else said[run.ids.to(device)])
            for weight, said, run in zip(weights, log_p, runs, strict=True)
        ]
        highest = [logs.amax() for logs in joint if len(logs)]
        if not highest:
            return total[:-1], across, across.log()
        # Of all that arrives: the likeliest cover may have next to nothing that begins with its pending bytes.
        shift = torch.stack(highest).max().clamp_min(torch.finfo(log_p.dtype).min)
        for pending, run, logs in zip(pendings, runs, joint, strict=True):
            arriving = (logs - shift).exp()
            if run is None:
                total[:-1] += arriving
            elif len(run.ids):
                arriving = arriving * self.counts(pending, last).to(device)[run.sorts.to(device)]
                total.index_add_(0, run.rests.to(device), arriving)
                across += arriving.sum()
        everything = total.sum()
        divisor = everything.clamp_min(torch.finfo(total.dtype).tiny)
        return total[:-1] / divisor, across / divisor, everything.log() + shift

    def counts(self, pending: bytes, last: int) -> Tensor:
        """What the tokens of each sort of the run count, float32 (sorts,)."""
        return torch.from_numpy(np.where(self._ended(pending, last), 1.0, _UNLIKELY).astype("float32"))

    def _run(self, pending: bytes) -> Run:
        part = slice(*run_behind(self._sorted, pending))
        rests = [data[len(pending) :] for data in self._sorted[part]]
        whole = [self._source.canonical.get(rest) for rest in rests]
        pieces = iter(self._source.segment_batch([r for r, w in zip(rests, whole, strict=True) if w is None]))
        nothing = (self._source.size,)
        first = [(next(pieces) or nothing)[0] if w is None else w for w in whole]
        samples: dict[bytes, bytes] = {}
        for rest in rests:
            known = samples.setdefault(_first_character(rest), rest)
            if len(rest) < len(known):
                samples[_first_character(rest)] = rest
        place = {character: i for i, character in enumerate(samples)}
        return Run(
            ids=torch.tensor(self._ids[part], dtype=torch.int64),
            rests=torch.tensor(first, dtype=torch.int64),
            sorts=torch.tensor([place[_first_character(rest)] for rest in rests], dtype=torch.int64),
            samples=tuple(samples.values()),
        )

    def _judged(self, pending: bytes, last: int) -> np.ndarray:
        """For each sort of the run: whether the target ends `last` at the text's end, bool (sorts,)."""
        before, samples = self._target.token_bytes[last], self.run(pending).samples
        if before is None:
            return np.ones(len(samples), bool)
        # By itself, and with a word behind it: where words take a space along, white space is cut otherwise then.
        cut = self._target.segment_batch([before + sample + more for sample in samples for more in (b"", b"a")])
        ended = [len(ids) > 1 and ids[0] == last for ids in cut]
        return np.array([alone or followed for alone, followed in zip(ended[::2], ended[1::2], strict=True)], bool)


def _first_character(data: bytes) -> bytes:
    """The first character of a rest; its first byte where it does not begin with a whole one."""
    size = 1 + (data[0] >= 0xC2) + (data[0] >= 0xE0) + (data[0] >= 0xF0)
    return data[:size]


def run_behind(ordered: Sequence[bytes], prefix: bytes) -> tuple[int, int]:
    """Where the byte strings stand, in a sorted list, that begin with a prefix and are longer: from, up to."""
    low = bisect.bisect_right(ordered, prefix)
    return low, bisect.bisect_left(ordered, after(prefix), low)


def after(prefix: bytes) -> bytes:
    """The least byte string greater than all that begin with the prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else prefix + b"\xff" * 64
