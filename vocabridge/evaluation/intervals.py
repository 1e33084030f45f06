"""Figures with 95% intervals, from resampling the items of a test; whole templates, where items share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vocabridge.models.examples import Example

RESAMPLES = 4_000
SEED = 0
"""Of the resampling: figures of the same items are resampled alike, so that their differences are paired."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int, scale: float = 1.0) -> str:
        """For people: 0.561 (0.540 to 0.583)."""
        value, low, high = (f"{scale * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def ratio(
    above: np.ndarray,
    below: np.ndarray,
    examples: Sequence[Example],
    change: Callable[[np.ndarray], np.ndarray] = lambda value: value,
) -> Interval:
    """Sum over sum, with a percentile interval from resampling templates with replacement."""
    _, member = np.unique([example.template for example in examples], return_inverse=True)
    sums = np.stack([np.bincount(member, weights=values) for values in (above, below)])
    templates = sums.shape[1]
    draws = np.random.default_rng(SEED).integers(templates, size=(RESAMPLES, templates))
    resampled = sums[:, draws].sum(-1)
    low, high = np.percentile(change(resampled[0] / resampled[1]), [2.5, 97.5])
    return Interval(float(change(above.sum() / below.sum())), float(low), float(high))
