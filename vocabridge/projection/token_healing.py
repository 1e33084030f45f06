"""`heal`: what the source says after a text whose end need not be the end of one of its tokens.

A text so far ends where the *target* has a boundary. The source may have cut it in several ways (covers, see
`reader`): its own tokens up to some byte, and pending bytes that its next token has to begin with. Which one it
would be depends on text still to come: " the" after a line break and four spaces takes the last space with it. So
the model is asked after each cover, and its probabilities decide between them:

    p(r) = sum over covers (s, p) of  P(s) * P(w | s),   w = p + r

P(s) is the probability of the cover's tokens after those that all covers share, w runs over the source tokens
that begin with the pending bytes (one run of the vocabulary sorted by bytes), and r is the rest of w behind
the text's end, again a source token or the first piece of one. A control token ends the text, so it follows only the
cover that is the encoding of the text as it stands. Tokens across which the target would not have
ended its last token count next to nothing: the target did end it. The result is a distribution over the source
vocabulary, so that every carry works on it as on the model's own.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vocabridge.alignment import Kind, Vocabulary
from vocabridge.projection.boundary import UNLIKELY, Boundary, kind

_JUDGED = 16
"""So many of the likeliest continuations are judged one by one, the others by kind."""

_ROUNDS = 5
"""So many times, at most, each time twice as many: when those turn out to count nothing, others may be likely."""

_GOOD_PART = 0.1
"""The share of all mass that makes it worth finding out what an unsure token counts."""

_SURE = 0.99
"""What counts more than this has a boundary before it."""

_LIKELY = 1e-3
"""The share of all mass below which a continuation is judged by kind."""


@dataclass(frozen=True)
class Run:
    """The source tokens that begin with some pending bytes and are longer.

    Attributes:
        ids: Their ids, sorted by their bytes, int64 (m,).
        rests: The source token that each one's rest is or begins with, int64 (m,); |S| for none.
        kinds: The kinds of these rests (`boundary`), each once.
    """

    ids: Tensor
    rests: Tensor
    kinds: np.ndarray


@dataclass(frozen=True)
class HealedDistribution:
    """What a source says after n texts, after all covers of each.

    Attributes:
        p: The distributions, (n, |S|): each sums to 1 but for what the source cannot spell, and is 0 everywhere if it
            has no token for the pending bytes.
        across: The share of each that comes from tokens that run across the text's end, (n,).
        counts: Of each what the likely tokens count before which a boundary of the target's is neither certain nor
            excluded.
    """

    p: Tensor
    across: Tensor
    counts: list[dict[int, float]]

    def unsure(self) -> list[list[int]]:
        """Of these tokens those that have a good part of the mass if there is a boundary before them after all."""
        both = [(i, w) for i, several in enumerate(self.counts) for w in several]
        found: list[list[int]] = [[] for _ in self.counts]
        for (i, w), mass in zip(both, _at(self.p, both).tolist(), strict=True):
            whole = mass / self.counts[i][w]
            if whole > _GOOD_PART * (whole + 1 - mass):
                found[i].append(w)
        return found


class TokenHealer(nn.Module):
    """Heals distributions of one source vocabulary at the boundaries of one target vocabulary."""

    kinds: Tensor
    controls: Tensor

    def __init__(self, source: Vocabulary, target: Vocabulary) -> None:
        """Sorts the source's tokens by their bytes."""
        super().__init__()
        self._source = source
        self._boundary = Boundary(source, target)
        self.register_buffer("kinds", torch.from_numpy(self._boundary.kinds), persistent=False)
        controls = np.flatnonzero(source.kinds == Kind.CONTROL)
        self.register_buffer("controls", torch.from_numpy(controls), persistent=False)
        self._sorted = sorted(source.canonical)
        self._ids = [source.canonical[data] for data in self._sorted]
        self.run = functools.lru_cache(maxsize=1 << 10)(self._run)

    def may_run_on(self, pending: bytes, written: bytes) -> bool:
        """Whether there is a source token for the pending bytes across which the target may end a token."""
        kinds = self.run(pending).kinds
        return bool((self._boundary.by_kind(written)[kinds] > UNLIKELY).any())

    def heal(
        self,
        pendings: Sequence[Sequence[bytes]],
        may_end: Sequence[Sequence[bool]],
        weights: Tensor,
        logits: Tensor,
        written: Sequence[bytes],
    ) -> HealedDistribution:
        """Sums up the covers of n texts.

        Args:
            pendings: The bytes that each cover of each text leaves pending; k covers in all.
            may_end: Whether a control token may follow each.
            weights: log P(s) of each cover, less the log-sum-exp of its logits, (k,), up to a constant that those of a
                text share.
            logits: The model's after each, float32 (k, |S|).
            written: The end of each text, as `Boundary.counts` takes it.
        """
        # The last is for rests that the source cannot spell.
        whole, running = logits.new_zeros(2, len(pendings), logits.shape[1] + 1)
        first = 0
        for several, ends, at_end, across in zip(pendings, may_end, whole, running, strict=True):
            covers = slice(first, first := first + len(several))
            self._sum_up(several, ends, weights[covers], logits[covers], at_end, across)
        total = whole.add_(running)
        by_kind = torch.from_numpy(np.stack([self._boundary.by_kind(end) for end in written])).to(logits.device)
        counts = torch.nn.functional.pad(by_kind[:, self.kinds], (0, 1), value=1.0)
        judged = self._judge(total, counts, written)
        total *= counts
        divisor = total.sum(-1, keepdim=True).clamp_min_(torch.finfo(total.dtype).tiny)
        return HealedDistribution(
            p=total[:, :-1] / divisor,
            across=(running * counts).sum(-1) / divisor[:, 0],
            counts=[{w: count for w, count in one.items() if UNLIKELY < count < _SURE} for one in judged],
        )

    def _sum_up(
        self,
        pendings: Sequence[bytes],
        may_end: Sequence[bool],
        weights: Tensor,
        logits: Tensor,
        at_end: Tensor,
        across: Tensor,
    ) -> None:
        """Sums up the covers of one text: what they give to tokens behind its end, and to rests of those across it."""
        runs = [self.run(pending) if pending else None for pending in pendings]
        joint = [
            weight + (said if run is None else said[run.ids.to(said.device)])
            for weight, said, run in zip(weights, logits, runs, strict=True)
        ]
        highest = [logs.amax() for logs in joint if len(logs)]
        if not highest:
            return
        # Of all that arrives: the likeliest cover may have next to nothing that begins with its pending bytes.
        shift = torch.stack(highest).max().clamp_min(torch.finfo(logits.dtype).min)
        for run, ends, logs in zip(runs, may_end, joint, strict=True):
            arriving = (logs - shift).exp()
            if run is None:
                at_end[:-1] += arriving if ends else arriving.index_fill(0, self.controls.to(logs.device), 0.0)
            else:
                across.index_add_(0, run.rests.to(across.device), arriving)

    def counts_behind(self, written: bytes, w: int, following: Sequence[int]) -> list[float]:
        """What a source token counts when others follow it; a control token ends the text in front of it."""
        data, token_bytes, kinds = self._source.token_bytes[w] or b"", self._source.token_bytes, self._source.kinds
        found = self._boundary.counts(written, [data + (token_bytes[v] or b" ") for v in following])
        at_end = self._boundary.count_at_end(written, data)
        return [at_end if kinds[v] == Kind.CONTROL else one for v, one in zip(following, found, strict=True)]

    def _judge(self, total: Tensor, counts: Tensor, written: Sequence[bytes]) -> list[dict[int, float]]:
        """Judges the likely continuations of n texts one by one.

        Behind a space words have nearly all mass, and count nothing: then ` "` has it, which a target may have whole,
        or a word that the target cuts. So what would be likely if it counted in full is judged.

        Args:
            total: The masses of all source tokens, and of what the source cannot spell, (n, |S| + 1).
            counts: What each counts by its kind, (n, |S| + 1); for those that are judged, what they count.
            written: The end of each text.

        Returns:
            What they count, of each text.
        """
        judged: list[dict[int, float]] = [{} for _ in written]
        unjudged, mass = total.clone(), total.sum(-1, keepdim=True)
        for number in range(_ROUNDS):
            likely = (unjudged[:, :-1] > _LIKELY * mass).nonzero()  # few: the greatest of all take a search
            new = likely[_greatest(unjudged[likely[:, 0], likely[:, 1]], likely[:, 0], _JUDGED << number)]
            if not len(new):
                break
            rows, tokens = new.unbind(1)
            for i, several in itertools.groupby(new.tolist(), key=operator.itemgetter(0)):
                of_text = [w for _, w in several]
                found = self._boundary.counts(written[i], [self._source.token_bytes[w] or b"" for w in of_text])
                judged[i] |= dict(zip(of_text, found, strict=True))
            counts[rows, tokens] = counts.new_tensor([judged[i][w] for i, w in new.tolist()])
            unjudged[rows, tokens] = 0.0
            mass = (total * counts).sum(-1, keepdim=True)
        return judged

    def _run(self, pending: bytes) -> Run:
        part = slice(*run_behind(self._sorted, pending))
        rests = [data[len(pending) :] for data in self._sorted[part]]
        whole = [self._source.canonical.get(rest) for rest in rests]
        pieces = iter(self._source.segment_batch([r for r, w in zip(rests, whole, strict=True) if w is None]))
        nothing = (self._source.size,)
        first = [(next(pieces) or nothing)[0] if w is None else w for w in whole]
        return Run(
            ids=torch.tensor(self._ids[part], dtype=torch.int64),
            rests=torch.tensor(first, dtype=torch.int64),
            kinds=np.unique([kind(rest) for rest in rests]).astype(np.int64),
        )


def _at(values: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """Those of some values (n, m) at these rows and columns."""
    rows, columns = torch.tensor(places, dtype=torch.int64, device=values.device).view(-1, 2).unbind(1)
    return values[rows, columns]


def _greatest(values: Tensor, rows: Tensor, k: int) -> Tensor:
    """Where the k greatest of the values (m,) of each row stand, row by row, the greatest first; rows ascend, (m,)."""
    order = values.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    return order[rank < k]


def run_behind(ordered: Sequence[bytes], prefix: bytes) -> tuple[int, int]:
    """Where the byte strings stand, in a sorted list, that begin with a prefix and are longer: from, up to."""
    low = bisect.bisect_right(ordered, prefix)
    return low, bisect.bisect_left(ordered, after(prefix), low)


def after(prefix: bytes) -> bytes:
    """The least byte string greater than all that begin with the prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else prefix + b"\xff" * 64
