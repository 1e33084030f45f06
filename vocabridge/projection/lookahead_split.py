"""How lookahead splits the mass of source tokens, as tensors that a projection adds to its product.

With the source's own p(v | w), its prediction after token w,

    q(y) = p(w) * sum over v of p(v | w) u(y, w) / (sum of u over the candidates of w v),   y among these candidates

where u(y, w) is p_T(y) R[y, w] for the informed method and C[y, w] for the static one. What the unlikely v have of p(w)
is split as the method itself would. `lookahead` says which candidates there are.
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
        position: At which of the positions, int64 (K,).
        token: Which token w, int64 (K,).
        p_follower: The m models' probabilities of G likely followers v of some w, float32 (m, G).
        of: Which of the K each follower follows, int64 (G,).
        candidates: The candidates of each w v, int64 (M,), with `rows` and `columns`, float32 (M,).
        rows: R[y, w] of each candidate.
        columns: C[y, w] of each candidate.
        group: To which of the G each candidate belongs, int64 (M,).
    """

    position: Tensor
    token: Tensor
    p_follower: Tensor
    of: Tensor
    candidates: Tensor
    rows: Tensor
    columns: Tensor
    group: Tensor

    def split(self, p: Tensor, on_source: Tensor, p_target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Split the mass of the K tokens.

        Args:
            p: The models' distributions, (m, n, |S|).
            on_source: The sum of u over all target tokens, (n, |S|).
            p_target: p_T for the informed method, (n, |T|); None for the static one.

        Returns:
            For each of the K tokens what replaces p(w) / on_source(w) in the method's product, (m, K); what is added
            afterwards to the candidates, (m, M); and at which positions, (M,).
        """
        at = self.position[self.of[self.group]]
        u = self.columns if p_target is None else self.rows * p_target[at, self.candidates]
        total = u.new_zeros(self.of.shape).index_add_(0, self.group, u).clamp_min_(_TINY)
        p_w = p[:, self.position, self.token]
        seen = torch.zeros_like(p_w).index_add_(1, self.of, self.p_follower).clamp_max_(1.0)
        mass = p_w[:, self.of] * self.p_follower
        unseen = p_w * (1 - seen) / on_source[self.position, self.token].clamp_min(_TINY)
        return unseen, (mass / total)[:, self.group] * u, at
