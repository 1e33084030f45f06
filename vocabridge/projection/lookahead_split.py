"""The split of source tokens' masses by lookahead, as tensors that a projection adds to its product.

With p(v | w), the source's prediction after its token w, the share of w that target token y gets is

    q(y) = p(w) * sum over v of p(v | w) u(y, w) / (sum of u over the candidates of w v),   y among these candidates

where u(y, w) is p_T(y) R[y, w] for the informed method and C[y, w] for the static one. The sum is over the likely
followers v. The mass of the unlikely ones is split as the method itself splits it. `lookahead` defines the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-37


@dataclass(frozen=True)
class LookaheadSplit:
    """A source's predictions after K of its tokens, at n positions.

    Attributes:
        position: The index of each token's position, int64 (K,).
        token: The id of each token w, int64 (K,).
        p_follower: The m models' probabilities of the G pairs of a token w and a likely follower v, float32 (m, G).
        of: For each pair, the index of its token among the K, int64 (G,).
        candidates: The candidates of all pairs, ids of target tokens, int64 (M,).
        row_weights: R[y, w] of each candidate, float32 (M,).
        column_weights: C[y, w] of each candidate, float32 (M,).
        group: For each candidate, the index of its pair among the G, int64 (M,).
    """

    position: Tensor
    token: Tensor
    p_follower: Tensor
    of: Tensor
    candidates: Tensor
    row_weights: Tensor
    column_weights: Tensor
    group: Tensor

    def split(self, p: Tensor, on_source: Tensor, p_target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Split the mass of the K tokens.

        Args:
            p: The models' distributions, (m, n, |S|).
            on_source: For each source token, the sum of u over all target tokens, (n, |S|).
            p_target: p_T for the informed method, (n, |T|); None for the static one.

        Returns:
            For each of the K tokens, the value that replaces p(w) / on_source(w) in the method's product, (m, K). For
            each candidate, the probability that is added to it after the product, (m, M), and the index of its
            position, (M,).
        """
        at = self.position[self.of[self.group]]
        u = self.column_weights if p_target is None else self.row_weights * p_target[at, self.candidates]
        total = u.new_zeros(self.of.shape).index_add_(0, self.group, u).clamp_min_(_TINY)
        p_w = p[:, self.position, self.token]
        likely = torch.zeros_like(p_w).index_add_(1, self.of, self.p_follower).clamp_max_(1.0)
        mass = p_w[:, self.of] * self.p_follower
        unlikely = p_w * (1 - likely) / on_source[self.position, self.token].clamp_min(_TINY)
        return unlikely, (mass / total)[:, self.group] * u, at
