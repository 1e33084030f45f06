"""Informed: q_T = p_T * (R @ (p_S / (R^T @ p_T))). The base itself splits the mass of each source token.

This is one step of Bayes' rule, half an iteration of iterative proportional fitting (Deming and Stephan, 1940). q sums
to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.methods import base as methods
from vocabridge.projection.projection import TINY, Projection


class Method(methods.Method):
    """Splits the mass of each source token over its aligned target tokens in proportion to R and the base's p_T."""

    of_logit_delta = False

    def project(
        self, projection: Projection, scores: Tensor, base: methods.BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project distributions; see `base.Method.project`.

        A source token loses its mass if p_T of every target token aligned with it underflows to 0.
        """
        on_source = base.on_source_vocab
        if on_source is None:
            on_source = projection.base_on_source_vocab(base.p)
        scale = projection.scale(scores, base.p)
        ratio = (scores / on_source).mul_(scale)
        if split is None:
            return projection.rows.logs(ratio)
        replaced, added, at = split.split(scores, on_source, base.p)
        models = methods.all_models(scores)
        ratio.index_put_((models, split.position, split.token), replaced * scale[:, split.position, 0])
        change = projection.rows.logs(ratio)
        flat_indices, inverse = torch.unique(at * base.p.shape[1] + split.candidates, return_inverse=True)
        q_added = added.new_zeros(len(added), len(flat_indices)).index_add_(1, inverse, added * scale[:, at, 0])
        log_ratio = (q_added / base.p.flatten()[flat_indices].clamp_min(TINY)).clamp_(TINY, 1 / TINY).log_()
        flat = change.view(len(change), -1)
        flat[:, flat_indices] = torch.logaddexp(flat[:, flat_indices], log_ratio)
        return change
