"""Token healing: a source's prediction after a text that may end inside one of the source's tokens.

The text ends where the *target* has a boundary. The source may cut it in several ways, called covers: tokens s up to
some byte, and pending bytes p with which the source's next token has to begin. Which cover is right depends on the text
that follows. For example, " the" after a line break and four spaces takes the last space along. So the model predicts
after each cover, and the result is marginalized over the covers:

    p(r) = weight(r) * sum over covers (s, p) of  P(s) * P(w | s),   w = p + r,   scaled to sum 1

- P(s) is the probability of the cover's tokens after those that all covers share.
- w runs over the source tokens that begin with the pending bytes, one range of the vocabulary sorted by bytes.
- r is the rest of w after the text's end, as a source token, or as the first token of its segmentation.
- weight(r) is the boundary weight (`boundary`): next to 0 where the target would not end a token before r, because
  the target did end one there.
- A control token ends the text, so it follows only the cover that is the encoding of the text as it stands.

The result is a distribution over the source vocabulary, so every projection method applies to it as to a model's own.
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
        ids: The ids of these tokens, sorted by the tokens' bytes, int64 (m,).
        rests: For each token, the source token that its rest after the pending bytes is or begins with, int64 (m,); |S|
            where the source has none.
        classes: The character classes of the rests (`boundary`), each once.
    """

    ids: Tensor
    rests: Tensor
    classes: np.ndarray


@dataclass(frozen=True)
class HealedDistribution:
    """A source's predictions after n texts, each marginalized over the covers of its text.

    Attributes:
        p: The distributions, (n, |S|). Each sums to 1 less the mass of rests that the source has no token for, and is 0
            everywhere if the source has no token for the pending bytes.
        crossing_mass: The share of each distribution that comes from tokens that cross the text's end, (n,).
        boundary_weights: For each text, the boundary weights of the likely tokens before which a boundary of the target
            is neither certain nor excluded, by token id.
    """

    p: Tensor
    crossing_mass: Tensor
    boundary_weights: list[dict[int, float]]


class TokenHealer(nn.Module):
    """Heals predictions over one source vocabulary at the boundaries of one target vocabulary."""

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
        """Return whether a source token that begins with the pending bytes may cross the end of the text."""
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
        """Sum over the covers of each of n texts.

        Args:
            pendings: For each text, the pending bytes of each of its covers; k covers in all.
            can_end: For each text, whether a control token may follow each of its covers.
            log_weights: log P(s) of each cover, (k,), up to a constant that the covers of a text share.
            log_p: The model's log-probabilities after each cover, float32 (k, |S|).
            text_ends: The end of each text, as for `Boundary.weights`.
        """
        # The last column is for rests that the source has no token for.
        total, crossing = log_p.new_zeros(2, len(pendings), log_p.shape[1] + 1)
        first = 0
        for of_text, may_end, at_end, across in zip(pendings, can_end, total, crossing, strict=True):
            covers = slice(first, first := first + len(of_text))
            self._add_covers(of_text, may_end, log_weights[covers], log_p[covers], at_end, across)
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
        """Return for each text the tokens of uncertain boundary that would have much of the mass at weight 1."""
        pairs = [(i, w) for i, weights in enumerate(healed.boundary_weights) for w in weights]
        uncertain: list[list[int]] = [[] for _ in healed.boundary_weights]
        rows, tokens = torch.tensor(pairs, dtype=torch.int64, device=healed.p.device).view(-1, 2).unbind(1)
        for (i, w), mass in zip(pairs, healed.p[rows, tokens].tolist(), strict=True):
            unweighted = mass / healed.boundary_weights[i][w]
            if unweighted > self.config.uncertain_mass * (unweighted + 1 - mass):
                uncertain[i].append(w)
        return uncertain

    def weights_behind(self, text_end: bytes, w: int, followers: Sequence[int]) -> list[float]:
        """Return the boundary weights of the source token w followed by each of some source tokens.

        Before a control token the text ends.
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
        """Add a text's covers to the masses `at_end` of tokens after its end and `across` of rests, both (|S| + 1,)."""
        ranges = [self.prefix_range(pending) if pending else None for pending in pendings]
        joint = [
            weight + (logs if prefix is None else logs[prefix.ids.to(logs.device)])
            for weight, logs, prefix in zip(log_weights, log_p, ranges, strict=True)
        ]
        highest = [logs.amax() for logs in joint if len(logs)]
        if not highest:
            return
        # The maximum of the joint log-probabilities, and not of the covers' own, because a model may expect next to no
        # token that begins with the pending bytes of the most likely cover.
        shift = torch.stack(highest).max().clamp_min(torch.finfo(log_p.dtype).min)
        for prefix, may_end, logs in zip(ranges, can_end, joint, strict=True):
            masses = (logs - shift).exp()
            if prefix is None:
                at_end[:-1] += masses if may_end else masses.index_fill(0, self.control_ids.to(logs.device), 0.0)
            else:
                across.index_add_(0, prefix.rests.to(across.device), masses)

    def _judge(self, total: Tensor, weights: Tensor, text_ends: Sequence[bytes]) -> list[dict[int, float]]:
        """Compute the boundary weights of the likely continuations of n texts one by one.

        The tokens are chosen by their mass before weighting, in rounds. After a space, for example, words have nearly
        all the mass and then a weight next to 0; so the mass that remains is on others, such as `" "` or a word that
        the target cuts, which the next round judges.

        Args:
            total: The masses of all source tokens, and of rests that the source has no token for, (n, |S| + 1).
            weights: Each token's weight by its character class, (n, |S| + 1); overwritten for the judged tokens.
            text_ends: The end of each text.

        Returns:
            For each text, the weights of the judged tokens.
        """
        judged: list[dict[int, float]] = [{} for _ in text_ends]
        unjudged, mass = total.clone(), total.sum(-1, keepdim=True)
        for number in range(self.config.judging_rounds):
            likely = (unjudged[:, :-1] > self.config.judged_mass * mass).nonzero()  # few; topk over all is slow
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
        tokens = [self._source.canonical.get(rest) for rest in rests]
        segmented = iter(self._source.segment_batch([rest for rest, w in zip(rests, tokens, strict=True) if w is None]))
        without_token = (self._source.size,)
        rest_ids = [(next(segmented) or without_token)[0] if w is None else w for w in tokens]
        return PrefixRange(
            ids=torch.tensor(self._ids[part], dtype=torch.int64),
            rests=torch.tensor(rest_ids, dtype=torch.int64),
            classes=np.unique([character_class(rest) for rest in rests]).astype(np.int64),
        )


def _greatest_by_row(values: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the indices of each row's k greatest values (m,), by row and descending value; `rows` (m,) ascends."""
    order = values.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    return order[rank < k]


def prefix_bounds(ordered: Sequence[bytes], prefix: bytes) -> tuple[int, int]:
    """Return the range (start, stop) in a sorted list of the byte strings that begin with a prefix and are longer."""
    low = bisect.bisect_right(ordered, prefix)
    return low, bisect.bisect_left(ordered, upper_bound(prefix), low)


def upper_bound(prefix: bytes) -> bytes:
    """Return a byte string above every token that begins with the prefix, and not above any token that sorts later."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else prefix + b"\xff" * 64
