"""Shares of a probability mass."""

from __future__ import annotations

import numpy as np

from vocabridge.alignment.arrays import Float64, Int64


def ratio(part: Float64, total: Float64) -> Float64:
    """Divide elementwise; the result is 0 where the total is 0."""
    return np.divide(part, total, out=np.zeros(np.broadcast_shapes(part.shape, total.shape)), where=total > 0)


def select_largest(shares: Float64, tolerance: float) -> tuple[Int64, float]:
    """Select the largest shares, as few as leave a sum of at most the tolerance.

    Returns:
        The indices of the selected shares, largest first, int64; and the sum of the others.
    """
    total = float(shares.sum())
    if total <= tolerance:
        return np.zeros(0, np.int64), total
    candidates = shares > tolerance / len(shares)
    order = np.flatnonzero(candidates)
    order = order[np.argsort(-shares[order], kind="stable")]
    # The sum without the first, without the first two and so on, added up from the smallest for accuracy.
    rest = float(shares[~candidates].sum()) + np.append(np.cumsum(shares[order[::-1]])[-2::-1], 0.0)
    count = int(np.argmax(rest <= tolerance)) + 1
    return order[:count], float(rest[count - 1])
