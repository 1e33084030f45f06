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
from torch import Tensor, nn

from vocabridge.alignment import Vocabulary
from vocabridge.boundary import UNLIKELY, Boundary, kind

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
class Healed:
    """What a source says after a text, after all covers of it.

    Attributes:
        p: The distribution, (|S|,): it sums to 1 but for what the source cannot spell, and is 0 everywhere if it has no
            token for the pending bytes.
        across: The share of it that comes from tokens that run across the text's end.
        counts: What the likely tokens count before which a boundary of the target's is neither certain nor excluded.
    """

    p: Tensor
    across: Tensor
    counts: dict[int, float]

    def unsure(self) -> list[int]:
        """Of these tokens those that have a good part of the mass if there is a boundary before them after all."""
        tokens = list(self.counts)
        p = self.p[tokens].tolist()
        most = [mass / count / (mass / count + 1 - mass) for mass, count in zip(p, self.counts.values(), strict=True)]
        return [w for w, share in zip(tokens, most, strict=True) if share > _GOOD_PART]


class Healer(nn.Module):
    """Heals distributions of one source vocabulary at the boundaries of one target vocabulary."""

    kinds: Tensor

    def __init__(self, source: Vocabulary, target: Vocabulary) -> None:
        """Sorts the source's tokens by their bytes."""
        super().__init__()
        self._source = source
        self._boundary = Boundary(source, target)
        self.register_buffer("kinds", torch.from_numpy(self._boundary.kinds), persistent=False)
        self._sorted = sorted(source.canonical)
        self._ids = [source.canonical[data] for data in self._sorted]
        self.run = functools.lru_cache(maxsize=1 << 10)(self._run)

    def may_run_on(self, pending: bytes, written: bytes) -> bool:
        """Whether there is a source token for the pending bytes across which the target may end a token."""
        kinds = self.run(pending).kinds
        return bool((self._boundary.by_kind(written)[kinds] > UNLIKELY).any())

    def heal(self, pendings: Sequence[bytes], weights: Tensor, logits: Tensor, written: bytes) -> Healed:
        """Sums up the covers of a text.

        Args:
            pendings: The bytes that each of k covers leaves pending.
            weights: log P(s) of each, less the log-sum-exp of its logits, (k,), up to a constant that they share.
            logits: The model's after each, float32 (k, |S|).
            written: The end of the text, as `Boundary.counts` takes it.
        """
        device = logits.device
        whole, running = logits.new_zeros(2, logits.shape[1] + 1)  # the last is for rests that the source cannot spell
        runs = [self.run(pending) if pending else None for pending in pendings]
        joint = [
            weight + (said if run is None else said[run.ids.to(device)])
            for weight, said, run in zip(weights, logits, runs, strict=True)
        ]
        highest = [logs.amax() for logs in joint if len(logs)]
        if not highest:
            return Healed(whole[:-1], running.sum(), {})
        # Of all that arrives: the likeliest cover may have next to nothing that begins with its pending bytes.
        shift = torch.stack(highest).max().clamp_min(torch.finfo(logits.dtype).min)
        for run, logs in zip(runs, joint, strict=True):
            arriving = (logs - shift).exp()
            if run is None:
                whole[:-1] += arriving
            else:
                running.index_add_(0, run.rests.to(device), arriving)
        total = whole + running
        by_kind = torch.from_numpy(self._boundary.by_kind(written)).to(device)
        counts = torch.nn.functional.pad(by_kind[self.kinds], (0, 1), value=1.0)
        judged = self._judge(total, counts, written)
        total *= counts
        divisor = total.sum().clamp_min(torch.finfo(total.dtype).tiny)
        unsure = {w: count for w, count in judged.items() if UNLIKELY < count < _SURE}
        return Healed(total[:-1] / divisor, (running * counts).sum() / divisor, unsure)

    def counts_behind(self, written: bytes, w: int, following: Sequence[int]) -> list[float]:
        """What a source token counts when others follow it."""
        data = self._source.token_bytes[w] or b""
        return self._boundary.counts(written, [data + (self._source.token_bytes[v] or b" ") for v in following])

    def _judge(self, total: Tensor, counts: Tensor, written: bytes) -> dict[int, float]:
        """Judges the likely continuations one by one.

        Behind a space words have nearly all mass, and count nothing: then ` "` has it, which a target may have whole,
        or a word that the target cuts. So what would be likely if it counted in full is judged.

        Args:
            total: The masses of all source tokens, and of what the source cannot spell, (|S| + 1,).
            counts: What each counts by its kind, (|S| + 1,); for those that are judged, what they count.
            written: The end of the text.

        Returns:
            What they count.
        """
        judged: dict[int, float] = {}
        unjudged, mass = total.clone(), total.sum()
        for number in range(_ROUNDS):
            likely = (unjudged[:-1] > _LIKELY * mass).nonzero().squeeze(1)  # few: the greatest of all take a search
            new = likely[unjudged[likely].topk(min(_JUDGED << number, len(likely))).indices].tolist()
            if not new:
                break
            found = self._boundary.counts(written, [self._source.token_bytes[w] or b"" for w in new])
            judged |= dict(zip(new, found, strict=True))
            counts[new] = torch.tensor(found, device=counts.device)
            unjudged[new] = 0.0
            mass = (total * counts).sum()
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


def run_behind(ordered: Sequence[bytes], prefix: bytes) -> tuple[int, int]:
    """Where the byte strings stand, in a sorted list, that begin with a prefix and are longer: from, up to."""
    low = bisect.bisect_right(ordered, prefix)
    return low, bisect.bisect_left(ordered, after(prefix), low)


def after(prefix: bytes) -> bytes:
    """The least byte string greater than all that begin with the prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else prefix + b"\xff" * 64
