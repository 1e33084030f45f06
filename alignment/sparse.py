"""Sums over the rows and columns of sparse matrices, accumulated in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


def sums(matrix: sp.sparray, axis: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum a matrix over one axis in float64.

    scipy's own `sum(axis, dtype=np.float64)` accumulates float32 entries in float32 and casts the result.

    Args:
        matrix: (n, m), of any sparse format and dtype.
        axis: 0 for the sums of columns, (m,); 1 for the sums of rows, (n,).
    """
    entries = matrix.tocoo()
    other_axis = 1 - axis
    totals = np.bincount(entries.coords[other_axis], weights=entries.data, minlength=matrix.shape[other_axis])
    return totals.astype(np.float64, copy=False)
