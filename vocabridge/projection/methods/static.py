"""Static: q_T = C @ p_S. C has the shares of target tokens with which a source token's text began in a corpus."""

from __future__ import annotations

import torch
from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.methods import base as methods
from vocabridge.projection.projection import Projection

_TINY = torch.finfo(torch.float32).tiny  # replaces a probability of 0


class Method(methods.Method):
    """Splits the mass of each source token by fixed shares of its aligned target tokens."""

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
            p_source: The probabilities of m models, (m, n, |S|).
            p_target: The base model's probabilities, (n, |T|), which unmapped target tokens keep.
            split: How lookahead splits the mass of some source tokens; None without lookahead.

        Returns:
            The projected probabilities, (m, n, |T|).
        """
        scale = projection.scale(p_source, p_target)
        models = methods.all_models(p_source)
        if split is None:
            projected = projection.columns(p_source)
        else:
            mapped = projection.mapped_source.expand(p_source.shape[1:])
            ratio, added, at = split.split(p_source, mapped, None)
            projected = projection.columns(p_source.index_put((models, split.position, split.token), ratio))
        p_unmapped = p_target.index_select(-1, projection.unmapped_target)
        projected.mul_(scale).index_copy_(-1, projection.unmapped_target, p_unmapped.expand(*projected.shape[:-1], -1))
        if split is None:
            return projected
        return projected.index_put_((models, at, split.candidates), added * scale[:, at, 0], accumulate=True)
