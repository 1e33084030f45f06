"""Products of a sparse matrix with a few dense vectors of a vocabulary's size.

benchmarks/bench_projection.py compares the layouts. Nothing of the matrix's dense size is ever made.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

_TINY = 1e-37  # just above float32's underflow

with warnings.catch_warnings():  # torch warns once in a process that CSR and CSC are in beta
    warnings.filterwarnings("ignore", "Sparse CS[RC] tensor support is in beta", UserWarning)
    torch.empty(0, 0).to_sparse_csr()
    torch.empty(0, 0).to_sparse_csc()


class SparseMatrix(nn.Module):
    """A sparse matrix, for products with few vectors of a vocabulary's size.

    Where most entries are alone in their row (a larger vocabulary spoken for by a smaller one) those rows are one
    gather and the few others a small CSR product. Where most are alone in their column (the same, transposed) and
    there are several vectors, on a CPU, those columns are one scatter and the others a small CSR product. Else all is
    a CSR product. On any device the result is the same from one run to the next: no two threads add to one number.
    """

    first: Tensor
    alone: Tensor | None
    others: Tensor
    empty: Tensor
    into: Tensor
    spread: Tensor | None

    def __init__(self, matrix: sp.csr_array) -> None:
        """Takes float32 (rows, columns)."""
        super().__init__()
        per_row, per_column = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
        self.gathers = 2 * int((per_row == 1).sum()) > matrix.nnz
        self.scatters = not self.gathers and 2 * int((per_column == 1).sum()) > matrix.nnz
        others = np.flatnonzero(per_row > 1)
        self.rest = _Csr(matrix[others] if self.gathers else matrix)
        tensors: dict[str, np.ndarray | None] = {"others": others, "empty": np.flatnonzero(per_row == 0)}
        if self.gathers:
            tensors["first"], tensors["alone"] = _alone(matrix, per_row, nowhere=0)
        if self.scatters:
            tensors["into"], tensors["spread"] = _alone(matrix.T.tocsr(), per_column, nowhere=matrix.shape[0])
            kept = sp.csr_array(matrix.multiply(per_column > 1))
            kept.eliminate_zeros()
            self.shared = _Csr(kept)
        for name, array in tensors.items():
            self.register_buffer(name, None if array is None else torch.from_numpy(array), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Matrix @ values with the vocabulary last, (..., columns) -> (..., rows)."""
        flat = values.reshape(-1, values.shape[-1])
        found = self._joined(flat, self._rest(flat))
        if self.gathers and self.alone is not None:
            found.mul_(self.alone)
        return found.reshape(*values.shape[:-1], found.shape[-1])

    def logs(self, values: Tensor) -> Tensor:
        """log(matrix @ values) of numbers that are at least 0, as if at least 1e-37; 0 for rows without entries."""
        flat = values.reshape(-1, values.shape[-1]).clamp_min(_TINY)
        rest = self._rest(flat).clamp_min_(_TINY).log_()
        # What is alone in its row is a logarithm gathered; of gathered numbers there would be several times as many.
        found = self._joined(flat.log_(), rest)
        if self.gathers and self.alone is not None:
            found.add_(self.alone.log())
        return found.reshape(*values.shape[:-1], found.shape[-1])

    def _rest(self, flat: Tensor) -> Tensor:
        """The rows that are no gather: (n, columns) -> (n, others)."""
        if not self.scatters or len(flat) == 1 or flat.device.type != "cpu":
            return self.rest(flat)
        spread = flat if self.spread is None else flat * self.spread
        found = flat.new_zeros(len(flat), len(self.rest.pointers)).index_add_(1, self.into, spread)
        return self.shared(flat).add_(found[:, :-1])

    def _joined(self, flat: Tensor, rest: Tensor) -> Tensor:
        """Rows alone, gathered of (n, columns), among the other rows, (n, others); 0 for rows without entries."""
        if not self.gathers:
            return rest.index_fill_(-1, self.empty, 0.0)
        found = flat.gather(-1, self.first.expand(len(flat), -1))  # index_select takes one thread for all rows
        return found.index_copy_(-1, self.others, rest).index_fill_(-1, self.empty, 0.0)


def _alone(matrix: sp.csr_array, per_row: np.ndarray, nowhere: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The column of every row's only entry, int64 (rows,), and its weight, None if all are 1; some place for others."""
    at = np.minimum(matrix.indptr[:-1], matrix.nnz - 1)
    weights = np.where(per_row == 1, matrix.data[at], 1.0).astype("float32")
    columns = np.where(per_row == 1, matrix.indices[at], nowhere).astype("int64")
    return columns, None if (weights == 1).all() else weights


class _Csr(nn.Module):
    """The arrays of a CSR matrix; int32 indices are half the memory to read, and MKL's own."""

    pointers: Tensor
    indices: Tensor
    weights: Tensor

    def __init__(self, matrix: sp.csr_array) -> None:
        super().__init__()
        arrays = {"pointers": matrix.indptr, "indices": matrix.indices}
        tensors = {name: torch.from_numpy(array.astype("int32")) for name, array in arrays.items()}
        for name, tensor in (tensors | {"weights": torch.from_numpy(matrix.data.astype("float32"))}).items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Its product with vectors, (n, columns) -> (n, rows)."""
        return _csr_product(self.pointers, self.indices, self.weights, values)


@torch.library.custom_op("vocabridge::csr_product", mutates_args=())
def _csr_product(pointers: Tensor, indices: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """The product of a CSR matrix with vectors, (n, columns) -> (n, rows); an operator because compilers take no CSR.

    On a CPU one vector after the other: no layout of several has been as fast (benchmarks/bench_projection.py).
    """
    shape = (len(pointers) - 1, values.shape[-1])
    matrix = torch.sparse_csr_tensor(pointers, indices, weights, size=shape, check_invariants=False)
    if values.device.type != "cpu":
        return (matrix @ values.T).T.contiguous()
    found = values.new_empty(len(values), shape[0])
    for vector, out in zip(values, found, strict=True):
        torch.mv(matrix, vector, out=out)
    return found


def _keep_matrix(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.columns = inputs[3].shape[1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor]:
    """The transposed product; read by columns, the arrays of a CSR matrix are those of its transpose."""
    pointers, indices, weights = ctx.saved_tensors
    size = (ctx.columns, gradient.shape[1])
    transposed = torch.sparse_csc_tensor(pointers, indices, weights, size=size, check_invariants=False)
    return None, None, None, (transposed @ gradient.T).T


torch.library.register_autograd("vocabridge::csr_product", _backward, setup_context=_keep_matrix)


@_csr_product.register_fake
def _(pointers: Tensor, indices: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], pointers.shape[0] - 1)
