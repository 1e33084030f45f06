"""Static: q_T = C @ p_S, by how often a source token's text started with each target token in a corpus."""

from __future__ import annotations

import torch
from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.methods import base as methods
from vocabridge.projection.projection import Projection

_TINY = torch.finfo(torch.float32).tiny  # stands for a probability of 0


class Method(methods.Method):
    """Splits the mass of each source token by fixed shares."""

    of_logit_delta = False

    def project(
        self, projection: Projection, scores: Tensor, base: methods.BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project distributions; see `base.Method.project`."""
        log_p = methods.finite(base.logits).sub_(methods.log_sum_exp(base.logits, base.p))
        return self.distributions(projection, scores, base.p, split).clamp_min_(_TINY).log_().sub_(log_p)

    def distributions(
        self, projection: Projection, p_source: Tensor, p_target: Tensor, split: LookaheadSplit | None = None
    ) -> Tensor:
        """Return the projected distributions q_T.

        Args:
            projection: The sparse matrices.
            p_source: m models' probabilities, (m, n, |S|).
            p_target: The base model's, (n, |T|), which unmapped target tokens keep.
            split: How lookahead splits the mass of some source tokens.

        Returns:
            Probabilities (m, n, |T|).
        """
        scale = projection.scale(p_source, p_target)
        every = methods.all_models(p_source)
        if split is None:
            projected = projection.columns(p_source)
        else:
            mapped = projection.mapped_source.expand(p_source.shape[1:])
            ratio, added, at = split.split(p_source, mapped, None)
            projected = projection.columns(p_source.index_put((every, split.position, split.token), ratio))
        kept = p_target.index_select(-1, projection.unmapped_target)
        projected.mul_(scale).index_copy_(-1, projection.unmapped_target, kept.expand(*projected.shape[:-1], -1))
        if split is None:
            return projected
        return projected.index_put_((every, at, split.candidates), added * scale[:, at, 0], accumulate=True)
