"""Informed: q_T = p_T * (R @ (p_S / (R^T @ p_T))). The base itself splits the mass of each source token.

One Bayes step, half an iteration of iterative proportional fitting (Deming and Stephan, 1940). q sums to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.methods import base as methods
from vocabridge.projection.projection import TINY, Projection


class Method(methods.Method):
    """Splits the mass of each source token over the target tokens that agree with it, as the base would here."""

    of_logit_delta = False

    def project(
        self, projection: Projection, scores: Tensor, base: methods.BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project distributions; see `base.Method.project`.

        The mass of source tokens whose every target token has a p_T that float32 holds as 0 is lost.
        """
        on_source = base.on_source_vocab
        if on_source is None:
            on_source = projection.base_on_source_vocab(base.p)
        scale = projection.scale(scores, base.p)
        ratio = (scores / on_source).mul_(scale)
        if split is None:
            return projection.rows.logs(ratio)
        replaced, added, at = split.split(scores, on_source, base.p)
        every = methods.all_models(scores)
        ratio.index_put_((every, split.position, split.token), replaced * scale[:, split.position, 0])
        change = projection.rows.logs(ratio)
        places, which = torch.unique(at * base.p.shape[1] + split.candidates, return_inverse=True)
        more = added.new_zeros(len(added), len(places)).index_add_(1, which, added * scale[:, at, 0])
        log_more = (more / base.p.flatten()[places].clamp_min(TINY)).clamp_(TINY, 1 / TINY).log_()
        flat = change.view(len(change), -1)
        flat[:, places] = torch.logaddexp(flat[:, places], log_more)
        return change
