"""The base class of projection methods, the base's distribution, and functions for finite logits and their sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.projection import Projection

_MAX_ABS_CHANGE = 75.0  # exp(75) and exp(-75), times a row's greatest weight (at least 1/|S|), fit in float32
_LOWEST = -1e4  # replaces a logit of -inf, so that a weight of 0 does not make it nan


@dataclass(frozen=True)
class BaseDistribution:
    """The base model's prediction at n positions.

    Attributes:
        logits: The logits, float32 (n, |T|).
        p: The softmax of the logits.
        on_source_vocab: R^T @ p, (n, |S|), if it has been computed already; else None.
    """

    logits: Tensor
    p: Tensor
    on_source_vocab: Tensor | None = None


class Method(ABC):
    """One way to project a source's scores with the matrices of an alignment.

    Attributes:
        of_logit_delta: Whether the method projects z_delta, the change of logits; else it projects distributions.
    """

    of_logit_delta: ClassVar[bool]

    @abstractmethod
    def project(
        self, projection: Projection, scores: Tensor, base: BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project scores onto the target vocabulary.

        Args:
            projection: The sparse matrices.
            scores: For a method of a change of logits, finite z_delta; else the probabilities of m models. Float32
                (m, n, |S|).
            base: The base model's prediction.
            split: How lookahead splits the mass of some source tokens; None without lookahead. A method of a change of
                logits always gets None, because it has no mass to split.

        Returns:
            Changes of the base's logits, float32 (m, n, |T|), finite, in memory of its own: the projected z_delta, or
            log(q / p_T) of each projected distribution q. The change is 0 for unmapped target tokens.
        """


def all_models(p_source: Tensor) -> Tensor:
    """Return the indices of all m models, (m, 1), which broadcast against indices of positions and tokens."""
    return torch.arange(p_source.shape[0], device=p_source.device).unsqueeze(-1)


def centered(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shift each row (..., |S|) so that its midrange is 0, and clip it to the range of exp in float32.

    Returns:
        The shifted rows, (..., |S|); their midranges, (..., 1); and 1 where a row's values differ, else 0, (..., 1).
    """
    low, high = delta.amin(-1, keepdim=True), delta.amax(-1, keepdim=True)  # aminmax takes ten times as long
    middle = low + (high - low) / 2
    return (delta - middle).clamp_(-_MAX_ABS_CHANGE, _MAX_ABS_CHANGE), middle, (high > low).to(delta.dtype)


def finite(logits: Tensor) -> Tensor:
    """Return a copy of logits with -inf replaced by a very low number."""
    return logits.clamp_min(_LOWEST)


def log_sum_exp(logits: Tensor, p: Tensor) -> Tensor:
    """Return the log-sum-exp (n, 1) of logits (n, |T|) from their softmax p, without |T| logarithms."""
    return logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
