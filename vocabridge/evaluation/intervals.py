"""Figures with 95% bootstrap intervals. Items are resampled; items that share a template are resampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vocabridge.models.examples import Example

RESAMPLES = 4_000
SEED = 0
"""Seed of the resampling. All figures over the same items use the same resamples, so that differences are paired."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int, scale: float = 1.0) -> str:
        """Format the figure, multiplied by `scale`, for a table: 0.561 (0.540 to 0.583)."""
        value, low, high = (f"{scale * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def ratio(
    numerators: np.ndarray,
    denominators: np.ndarray,
    examples: Sequence[Example],
    transform: Callable[[np.ndarray], np.ndarray] = lambda value: value,
) -> Interval:
    """Return a ratio of two sums over items, with its percentile interval.

    Args:
        numerators: What each item adds to the first sum, (items,).
        denominators: What each item adds to the second sum, (items,).
        examples: The items. Their templates are resampled with replacement.
        transform: Applied to the ratio, and to that of each resample.
    """
    _, template_of_item = np.unique([example.template for example in examples], return_inverse=True)
    sums = np.stack([np.bincount(template_of_item, weights=values) for values in (numerators, denominators)])
    templates = sums.shape[1]
    draws = np.random.default_rng(SEED).integers(templates, size=(RESAMPLES, templates))
    resampled = sums[:, draws].sum(-1)
    low, high = np.percentile(transform(resampled[0] / resampled[1]), [2.5, 97.5])
    return Interval(float(transform(numerators.sum() / denominators.sum())), float(low), float(high))
