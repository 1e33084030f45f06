"""Exact sums over the rows and columns of sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp


def sums(matrix: sp.sparray, axis: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum a matrix over one axis in float64.

    scipy's own `sum(axis, dtype=np.float64)` adds float32 entries up in float32 and casts the result.

    Args:
        matrix: (n, m), of any sparse format and dtype.
        axis: 0 for the sums of columns, (m,); 1 for the sums of rows, (n,).
    """
    entries = matrix.tocoo()
    kept = 1 - axis
    added = np.bincount(entries.coords[kept], weights=entries.data, minlength=matrix.shape[kept])
    return added.astype(np.float64, copy=False)
