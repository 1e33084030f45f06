"""Exponential: delta_T = log(R @ exp(z_delta)) - k.

What the informed method becomes when the base's own distribution on the source vocabulary stands in for the small
model's, so it needs the value network's forward alone. The linear method is its first-order form.
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
        """Project z_delta; see `base.Method.project`. What is beyond 150 from end to end is clipped."""
        change, middle, differs = methods.centered(scores)
        mean = projection.rows(change.exp_())
        in_general = not projection.maps_all_targets
        constant = projection.constant(mean * base.p, base.p) * differs if in_general else -middle
        # A row's weights sum to 1 but for rounding: without `differs`, the change of a constant would not be constant.
        return mean.log_().mul_(differs).sub_(constant).index_fill_(-1, projection.unmapped_target, 0.0)
