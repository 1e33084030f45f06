"""Products of a sparse matrix with a few dense vectors of a vocabulary's size.

The layout of a matrix follows from how many of its rows and columns have one entry; benchmarks/bench_projection.py
compares the layouts. No dense matrix is ever made.
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

    There are three layouts:

    - Where most entries are the only one of their row (a larger vocabulary aligned with a smaller one), these rows are
      one gather, and the few others are a small CSR product.
    - Where most entries are the only one of their column (the transposed case), these columns are one scatter, and the
      others are a small CSR product. That is done for several vectors on a CPU; else all is a CSR product.
    - Any other matrix is a CSR product.

    Results are deterministic on every device, because no two threads add to the same number.

    Attributes:
        gathers: Whether the layout is the first one.
        scatters: Whether it is the second one.
    """

    gather_columns: Tensor
    gather_weights: Tensor | None
    product_rows: Tensor
    empty_rows: Tensor
    scatter_rows: Tensor
    scatter_weights: Tensor | None

    def __init__(self, matrix: sp.csr_array) -> None:
        """Choose the layout of a float32 matrix (rows, columns)."""
        super().__init__()
        per_row, per_column = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
        self.gathers = 2 * int((per_row == 1).sum()) > matrix.nnz
        self.scatters = not self.gathers and 2 * int((per_column == 1).sum()) > matrix.nnz
        product_rows = np.flatnonzero(per_row > 1)
        self.csr = _Csr(matrix[product_rows] if self.gathers else matrix)
        tensors: dict[str, np.ndarray | None] = {
            "product_rows": product_rows,
            "empty_rows": np.flatnonzero(per_row == 0),
        }
        if self.gathers:
            tensors["gather_columns"], tensors["gather_weights"] = _only_entries(matrix, per_row, placeholder=0)
        if self.scatters:
            tensors["scatter_rows"], tensors["scatter_weights"] = _only_entries(
                matrix.T.tocsr(), per_column, placeholder=matrix.shape[0]
            )
            without_scattered = sp.csr_array(matrix.multiply(per_column > 1))
            without_scattered.eliminate_zeros()
            self.csr_beside_scatter = _Csr(without_scattered)
        for name, array in tensors.items():
            self.register_buffer(name, None if array is None else torch.from_numpy(array), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return matrix @ values, with the vocabulary last: (..., columns) -> (..., rows)."""
        flat = values.reshape(-1, values.shape[-1])
        result = self._with_gathered(flat, self._product(flat))
        if self.gathers and self.gather_weights is not None:
            result.mul_(self.gather_weights)
        return result.reshape(*values.shape[:-1], result.shape[-1])

    def logs(self, values: Tensor) -> Tensor:
        """Return log(matrix @ values), with the vocabulary last: (..., columns) -> (..., rows).

        Values are at least 0; those below 1e-37 count as 1e-37. The result is 0 for rows without entries.
        """
        flat = values.reshape(-1, values.shape[-1]).clamp_min(_TINY)
        product = self._product(flat).clamp_min_(_TINY).log_()
        # Logarithms before the gather, because the gathered numbers are several times as many.
        result = self._with_gathered(flat.log_(), product)
        if self.gathers and self.gather_weights is not None:
            result.add_(self.gather_weights.log())
        return result.reshape(*values.shape[:-1], result.shape[-1])

    def _product(self, flat: Tensor) -> Tensor:
        """Return the rows that are not gathered: (n, columns) -> (n, product_rows), or all rows without a gather."""
        if not self.scatters or len(flat) == 1 or flat.device.type != "cpu":
            return self.csr(flat)
        weighted = flat if self.scatter_weights is None else flat * self.scatter_weights
        scattered = flat.new_zeros(len(flat), len(self.csr.pointers)).index_add_(1, self.scatter_rows, weighted)
        return self.csr_beside_scatter(flat).add_(scattered[:, :-1])

    def _with_gathered(self, flat: Tensor, product: Tensor) -> Tensor:
        """Gather rows with one entry from (n, columns), and insert the other rows; 0 for rows without entries."""
        if not self.gathers:
            return product.index_fill_(-1, self.empty_rows, 0.0)
        gathered = flat.gather(-1, self.gather_columns.expand(len(flat), -1))  # index_select takes one thread for all
        return gathered.index_copy_(-1, self.product_rows, product).index_fill_(-1, self.empty_rows, 0.0)


def _only_entries(matrix: sp.csr_array, per_row: np.ndarray, placeholder: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the column and the weight of the only entry of each row that has one.

    Returns:
        The columns, int64 (rows,), with the placeholder for other rows; the weights, float32 (rows,), None if all are
        1.
    """
    at = np.minimum(matrix.indptr[:-1], matrix.nnz - 1)
    weights = np.where(per_row == 1, matrix.data[at], 1.0).astype("float32")
    columns = np.where(per_row == 1, matrix.indices[at], placeholder).astype("int64")
    return columns, None if (weights == 1).all() else weights


class _Csr(nn.Module):
    """The arrays of a CSR matrix. Indices are int32, which MKL uses and which halves the memory to read."""

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
        """Return the product with n vectors, (n, columns) -> (n, rows)."""
        return _csr_product(self.pointers, self.indices, self.weights, values)


@torch.library.custom_op("vocabridge::csr_product", mutates_args=())
def _csr_product(pointers: Tensor, indices: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """Return the product of a CSR matrix with n vectors, (n, columns) -> (n, rows).

    It is a custom operator because torch.compile takes no CSR tensors. On a CPU the vectors are multiplied one after
    the other, which was faster than any product of several (benchmarks/bench_projection.py).
    """
    shape = (len(pointers) - 1, values.shape[-1])
    matrix = torch.sparse_csr_tensor(pointers, indices, weights, size=shape, check_invariants=False)
    if values.device.type != "cpu":
        return (matrix @ values.T).T.contiguous()
    products = values.new_empty(len(values), shape[0])
    for vector, product in zip(values, products, strict=True):
        torch.mv(matrix, vector, out=product)
    return products


def _keep_matrix(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.columns = inputs[3].shape[1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor]:
    """Return the transposed product. The CSR arrays of a matrix are the CSC arrays of its transpose."""
    pointers, indices, weights = ctx.saved_tensors
    size = (ctx.columns, gradient.shape[1])
    transposed = torch.sparse_csc_tensor(pointers, indices, weights, size=size, check_invariants=False)
    return None, None, None, (transposed @ gradient.T).T


torch.library.register_autograd("vocabridge::csr_product", _backward, setup_context=_keep_matrix)


@_csr_product.register_fake
def _(pointers: Tensor, indices: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], pointers.shape[0] - 1)
