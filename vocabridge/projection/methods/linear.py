"""Linear: delta_T = R @ z_delta - k.

After Lu et al. (arXiv 2410.21027). The paper does not state how its matrix is applied; this form fits the matrix's
shape.
"""

from __future__ import annotations

from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.methods import base as methods
from vocabridge.projection.projection import Projection


class Method(methods.Method):
    """The weighted mean of the changes of the source tokens aligned with a target token."""

    of_logit_delta = True

    def project(
        self, projection: Projection, scores: Tensor, base: methods.BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project z_delta; see `base.Method.project`.

        Where target tokens are unmapped, a row of z_delta is clipped to a range of 150. Where z_delta is 0, the result
        is exactly 0.
        """
        if projection.maps_all_targets:
            return projection.rows(scores)
        change, _, differs = methods.centered(scores)
        change = projection.rows(change)
        changed = (change.exp() * base.p).index_fill_(-1, projection.unmapped_target, 0.0)
        constant = projection.constant(changed, base.p) * differs
        return change.sub_(constant).index_fill_(-1, projection.unmapped_target, 0.0)
