"""Exponential: delta_T = log(R @ exp(z_delta)) - k.

This is the informed method with the base's own distribution on the source vocabulary in place of the untuned model's,
so it needs the value network's forward alone. The linear method is its first-order approximation.
"""

from __future__ import annotations

from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.methods import base as methods
from vocabridge.projection.projection import Projection


class Method(methods.Method):
    """The logarithm of the weighted mean of the probability ratios of the source tokens."""

    of_logit_delta = True

    def project(
        self, projection: Projection, scores: Tensor, base: methods.BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project z_delta; see `base.Method.project`.

        A row of z_delta is clipped to a range of 150, so that its exponentials fit in float32.
        """
        change, middle, differs = methods.centered(scores)
        mean = projection.rows(change.exp_())
        constant = -middle if projection.maps_all_targets else projection.constant(mean * base.p, base.p) * differs
        # `differs` keeps the change of a constant z_delta exactly constant, though a row's weights sum to 1 only up to
        # rounding.
        return mean.log_().mul_(differs).sub_(constant).index_fill_(-1, projection.unmapped_target, 0.0)
