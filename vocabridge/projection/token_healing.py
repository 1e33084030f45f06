"""Token healing: a source's prediction after a text whose end need not be the end of one of its tokens.

A text so far ends where the *target* has a boundary. The source may have cut it in several ways, called covers: its own
tokens up to some byte, and pending bytes that its next token has to begin with. Which cover is right depends on text
still to come: " the" after a line break and four spaces takes the last space with it. So the model predicts after each
cover, and its own probabilities weigh the covers (they marginalize over them):

    p(r) = sum over covers (s, p) of  P(s) * P(w | s),   w = p + r

P(s) is the probability of the cover's tokens after those that all covers share. w runs over the source tokens that
begin with the pending bytes, one range of the vocabulary sorted by bytes. r is the rest of w behind the text's end,
again a source token or the first piece of one. A control token ends the text, so it follows only the cover that is the
encoding of the text as it stands. A token before which the target would not have ended its last token weighs next to
nothing, because the target did end it (`boundary`). The result is a distribution over the source vocabulary, so every
projection method applies to it as to the model's own.
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

from vocabridge.alignment import TokenKind, Vocabulary
from vocabridge.projection.boundary import Boundary, character_class
from vocabridge.projection.config import BoundaryConfig


@dataclass(frozen=True)
class PrefixRange:
    """The source tokens that begin with some pending bytes and are longer.

    Attributes:
        ids: Their ids, sorted by their bytes, int64 (m,).
        rests: The source token that each one's rest is or begins with, int64 (m,); |S| for none.
        classes: The character classes of these rests (`boundary`), each once.
    """

    ids: Tensor
    rests: Tensor
    classes: np.ndarray


@dataclass(frozen=True)
class HealedDistribution:
    """A source's predictions after n texts, marginalized over the covers of each.

    Attributes:
        p: The distributions, (n, |S|). Each sums to 1 but for what the source cannot spell, and is 0 everywhere if it
            has no token for the pending bytes.
        crossing_mass: The share of each that comes from tokens that run across the text's end, (n,).
        boundary_weights: For each text, the weights of the likely tokens before which a boundary of the target's is
            neither certain nor excluded.
    """

    p: Tensor
    crossing_mass: Tensor
    boundary_weights: list[dict[int, float]]


class TokenHealer(nn.Module):
    """Heals distributions of one source vocabulary at the boundaries of one target vocabulary."""

    classes: Tensor
    control_ids: Tensor

    def __init__(self, source: Vocabulary, target: Vocabulary, config: BoundaryConfig) -> None:
        """Sort the source's tokens by their bytes."""
        super().__init__()
        self.config = config
        self._source = source
        self._boundary = Boundary(source, target, config)
        self.register_buffer("classes", torch.from_numpy(self._boundary.classes), persistent=False)
        control_ids = np.flatnonzero(source.kinds == TokenKind.CONTROL)
        self.register_buffer("control_ids", torch.from_numpy(control_ids), persistent=False)
        self._sorted = sorted(source.canonical)
        self._ids = [source.canonical[data] for data in self._sorted]
        self.prefix_range = functools.lru_cache(maxsize=1 << 10)(self._prefix_range)

    def can_cross(self, pending: bytes, text_end: bytes) -> bool:
        """Return whether some source token for the pending bytes has a likely boundary of the target's in it."""
        classes = self.prefix_range(pending).classes
        weights = self._boundary.weights_by_class(text_end)[classes]
        return bool((weights > self.config.unlikely_boundary).any())

    def marginalize(
        self,
        pendings: Sequence[Sequence[bytes]],
        can_end: Sequence[Sequence[bool]],
        log_weights: Tensor,
        log_p: Tensor,
        text_ends: Sequence[bytes],
    ) -> HealedDistribution:
        """Sum over the covers of n texts.

        Args:
            pendings: The bytes that each cover of each text leaves pending; k covers in all.
            can_end: Whether a control token may follow each cover.
            log_weights: log P(s) of each cover, (k,), up to a constant that the covers of a text share.
            log_p: The model's log-probabilities after each cover, float32 (k, |S|).
            text_ends: The end of each text, as `Boundary.weights` takes it.
        """
        # The last column is for rests that the source cannot spell.
        total, crossing = log_p.new_zeros(2, len(pendings), log_p.shape[1] + 1)
        first = 0
        for of_text, ends, at_end, across in zip(pendings, can_end, total, crossing, strict=True):
            covers = slice(first, first := first + len(of_text))
            self._add_covers(of_text, ends, log_weights[covers], log_p[covers], at_end, across)
        total.add_(crossing)
        by_class = np.stack([self._boundary.weights_by_class(end) for end in text_ends])
        weights = torch.from_numpy(by_class).to(log_p.device)[:, self.classes]
        weights = torch.nn.functional.pad(weights, (0, 1), value=1.0)
        judged = self._judge(total, weights, text_ends)
        total *= weights
        divisor = total.sum(-1, keepdim=True).clamp_min_(torch.finfo(total.dtype).tiny)
        low, high = self.config.unlikely_boundary, self.config.certain_boundary
        return HealedDistribution(
            p=total[:, :-1] / divisor,
            crossing_mass=(crossing * weights).sum(-1) / divisor[:, 0],
            boundary_weights=[{w: weight for w, weight in text.items() if low < weight < high} for text in judged],
        )

    def uncertain_tokens(self, healed: HealedDistribution) -> list[list[int]]:
        """Return, for each text, the tokens of uncertain boundary that would have much of the mass at weight 1."""
        pairs = [(i, w) for i, weights in enumerate(healed.boundary_weights) for w in weights]
        uncertain: list[list[int]] = [[] for _ in healed.boundary_weights]
        rows, tokens = torch.tensor(pairs, dtype=torch.int64, device=healed.p.device).view(-1, 2).unbind(1)
        for (i, w), mass in zip(pairs, healed.p[rows, tokens].tolist(), strict=True):
            in_full = mass / healed.boundary_weights[i][w]
            if in_full > self.config.uncertain_mass * (in_full + 1 - mass):
                uncertain[i].append(w)
        return uncertain

    def weights_behind(self, text_end: bytes, w: int, followers: Sequence[int]) -> list[float]:
        """Return the boundary weights of a source token when it is followed by each of some others.

        A control token ends the text in front of it.
        """
        token_bytes, kinds = self._source.token_bytes, self._source.kinds
        data = token_bytes[w] or b""
        weights = self._boundary.weights(text_end, [data + (token_bytes[v] or b" ") for v in followers])
        at_end = self._boundary.weight_at_end(text_end, data)
        return [
            at_end if kinds[v] == TokenKind.CONTROL else weight for v, weight in zip(followers, weights, strict=True)
        ]

    def _add_covers(
        self,
        pendings: Sequence[bytes],
        can_end: Sequence[bool],
        log_weights: Tensor,
        log_p: Tensor,
        at_end: Tensor,
        across: Tensor,
    ) -> None:
        """Add the covers of one text to the masses of tokens behind its end, and of rests of tokens across it."""
        ranges = [self.prefix_range(pending) if pending else None for pending in pendings]
        joint = [
            weight + (logs if prefix is None else logs[prefix.ids.to(logs.device)])
            for weight, logs, prefix in zip(log_weights, log_p, ranges, strict=True)
        ]
        highest = [logs.amax() for logs in joint if len(logs)]
        if not highest:
            return
        # The highest of what arrives: the likeliest cover may have next to nothing that begins with its pending bytes.
        shift = torch.stack(highest).max().clamp_min(torch.finfo(log_p.dtype).min)
        for prefix, ends, logs in zip(ranges, can_end, joint, strict=True):
            arriving = (logs - shift).exp()
            if prefix is None:
                at_end[:-1] += arriving if ends else arriving.index_fill(0, self.control_ids.to(logs.device), 0.0)
            else:
                across.index_add_(0, prefix.rests.to(across.device), arriving)

    def _judge(self, total: Tensor, weights: Tensor, text_ends: Sequence[bytes]) -> list[dict[int, float]]:
        """Judge the likely continuations of n texts one by one.

        Behind a space, words have nearly all the mass and weigh nothing; then `" "` has it, which a target may have
        whole, or a word that the target cuts. So what would be likely if it weighed in full is judged.

        Args:
            total: The masses of all source tokens, and of what the source cannot spell, (n, |S| + 1).
            weights: The weight of each by its character class, (n, |S| + 1); overwritten for those that are judged.
            text_ends: The end of each text.

        Returns:
            The weights of the judged tokens, for each text.
        """
        judged: list[dict[int, float]] = [{} for _ in text_ends]
        unjudged, mass = total.clone(), total.sum(-1, keepdim=True)
        for number in range(self.config.judging_rounds):
            likely = (unjudged[:, :-1] > self.config.judged_mass * mass).nonzero()  # few; a search over all is slow
            masses = unjudged[likely[:, 0], likely[:, 1]]
            new = likely[_greatest_by_row(masses, likely[:, 0], self.config.judged_tokens << number)]
            if not len(new):
                break
            rows, tokens = new.unbind(1)
            for i, pairs in itertools.groupby(new.tolist(), key=operator.itemgetter(0)):
                of_text = [w for _, w in pairs]
                rests = [self._source.token_bytes[w] or b"" for w in of_text]
                judged[i] |= dict(zip(of_text, self._boundary.weights(text_ends[i], rests), strict=True))
            weights[rows, tokens] = weights.new_tensor([judged[i][w] for i, w in new.tolist()])
            unjudged[rows, tokens] = 0.0
            mass = (total * weights).sum(-1, keepdim=True)
        return judged

    def _prefix_range(self, pending: bytes) -> PrefixRange:
        part = slice(*prefix_bounds(self._sorted, pending))
        rests = [data[len(pending) :] for data in self._sorted[part]]
        whole = [self._source.canonical.get(rest) for rest in rests]
        pieces = iter(self._source.segment_batch([rest for rest, w in zip(rests, whole, strict=True) if w is None]))
        unspelled = (self._source.size,)
        first = [(next(pieces) or unspelled)[0] if w is None else w for w in whole]
        return PrefixRange(
            ids=torch.tensor(self._ids[part], dtype=torch.int64),
            rests=torch.tensor(first, dtype=torch.int64),
            classes=np.unique([character_class(rest) for rest in rests]).astype(np.int64),
        )


def _greatest_by_row(values: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the places of the k greatest values (m,) of each row, row by row, greatest first; rows ascend, (m,)."""
    order = values.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    return order[rank < k]


def prefix_bounds(ordered: Sequence[bytes], prefix: bytes) -> tuple[int, int]:
    """Return where, in a sorted list, the byte strings stand that begin with a prefix and are longer: from, up to."""
    low = bisect.bisect_right(ordered, prefix)
    return low, bisect.bisect_left(ordered, upper_bound(prefix), low)


def upper_bound(prefix: bytes) -> bytes:
    """Return the least byte string greater than all that begin with the prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else prefix + b"\xff" * 64
