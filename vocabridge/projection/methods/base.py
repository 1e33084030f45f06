"""What a projection method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.projection import Projection

_FAR = 75.0  # exp(75) and exp(-75), times the greatest weight of a row (at least 1/|S|), stay in float32's range
_LOWEST = -1e4  # stands for a logit of -inf where it has a weight; what the base rules out stays out


@dataclass(frozen=True)
class BaseDistribution:
    """The base model's prediction at n positions, and what is known of it.

    Attributes:
        logits: Float32 (n, |T|).
        p: Their softmax.
        on_source_vocab: R^T @ p, (n, |S|), where it has been computed before; else None.
    """

    logits: Tensor
    p: Tensor
    on_source_vocab: Tensor | None = None


class Method(ABC):
    """One way to apply an alignment.

    Attributes:
        of_logit_delta: Whether it projects z_delta, the change of logits; else the source's distributions.
    """

    of_logit_delta: ClassVar[bool]

    @abstractmethod
    def project(
        self, projection: Projection, scores: Tensor, base: BaseDistribution, split: LookaheadSplit | None
    ) -> Tensor:
        """Project scores onto the target vocabulary.

        Args:
            projection: The sparse matrices.
            scores: z_delta for methods of a change of logits, finite; else m models' probabilities; float32
                (m, n, |S|).
            base: The base model's prediction.
            split: How lookahead splits the mass of some source tokens; None without lookahead. Methods of a change of
                logits have no mass to split and get None.

        Returns:
            Changes of the base's logits, float32 (m, n, |T|), finite and in memory of its own: the projected z_delta,
            or log(q / p_T) of each projected distribution q. 0 for unmapped target tokens.
        """


def all_models(p_source: Tensor) -> Tensor:
    """Return indices of all models, (m, 1), to stand before those of positions and tokens."""
    return torch.arange(p_source.shape[0], device=p_source.device).unsqueeze(-1)


def centered(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the middle of each row (..., |S|) to 0, and clip what exp cannot hold.

    Returns:
        The rows; their middle; 1 where a row's values differ, else 0.
    """
    low, high = delta.amin(-1, keepdim=True), delta.amax(-1, keepdim=True)  # aminmax takes ten times as long
    middle = low + (high - low) / 2
    return (delta - middle).clamp_(-_FAR, _FAR), middle, (high > low).to(delta.dtype)


def finite(logits: Tensor) -> Tensor:
    """Return a copy in which logits of -inf are very low numbers."""
    return logits.clamp_min(_LOWEST)


def log_sum_exp(logits: Tensor, p: Tensor) -> Tensor:
    """Return the log-sum-exp (n, 1) of logits (n, |T|) whose softmax p is known: no logarithm over the vocabulary."""
    return logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
