"""Applies an alignment to a value source's scores, on the model's device: source vocabulary in, target out.

    linear       delta_T = W @ z_delta - k
    exponential  delta_T = log(R @ exp(z_delta)) - k
    static       q_T = C @ p_S
    informed     q_T = p_T * (R @ (p_S / (R^T @ p_T))), as the change of logits log(q_T / p_T)

W = R are the rows of the alignment's counts normalised to 1, C its columns; p_T is the base model's distribution.
A target token that nobody speaks for keeps what it has: a change of 0, or its p_T; the source tokens that speak
for nobody are left out of p_S. So the target tokens that are spoken for ("covered") share among them what the base
gives them, own = the sum of their p_T: distributions are scaled to it, and k, which a change of logits leaves open,
is the number that keeps it, sum p_T exp(delta_T) = own; where every token is covered it is neutral, and 0. R's rows
and C's columns sum to 1, so that the scale of a distribution is known before the product that needs it.

The first is arXiv 2410.21027 (which did not release how its matrix is applied; this is the reading that fits its
shape). The last is one Bayes step, half an iteration of iterative proportional fitting (Deming and Stephan, 1940).
Nothing of size |S| x |T| is ever made; how one product is done is `SparseMatrix`, from benchmarks/bench_projection.py.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment

if TYPE_CHECKING:
    from vocabridge.projection.lookahead import LookaheadSplit

_TINY = 1e-37  # just above float32's underflow
_FAR = 75.0  # exp(75) and exp(-75), times the greatest weight of a row (at least 1/|S|), stay in float32's range

with warnings.catch_warnings():  # torch says once in a process that CSR and CSC are in beta; so it has said it
    warnings.filterwarnings("ignore", "Sparse CS[RC] tensor support is in beta", UserWarning)
    torch.empty(0, 0).to_sparse_csr()
    torch.empty(0, 0).to_sparse_csc()


class Projection(nn.Module):
    """The maps from source scores to target scores, as buffers that move with the module.

    Everything is float32 with the vocabulary last: (n, |S|) in, (n, |T|) out. No method waits for the device, but for
    the informed carry's where it is told what comes after some tokens: it sorts their candidates.
    """

    covered: Tensor
    empty: Tensor
    speaking: Tensor

    def __init__(self, rows: sp.csr_array, columns: sp.csr_array) -> None:
        """Takes the two normalisations of one count matrix.

        Args:
            rows: R (and W), (|T|, |S|), rows that sum to 1 or are empty.
            columns: C, (|T|, |S|), columns that sum to 1 or are empty.
        """
        super().__init__()
        self.rows = SparseMatrix(rows)
        self.rows_transposed = SparseMatrix(rows.T.tocsr())
        self.columns = SparseMatrix(columns)
        covered = rows.indptr[1:] > rows.indptr[:-1]
        self.covers_all = bool(covered.all())
        self.register_buffer("covered", torch.from_numpy(covered.astype("float32")), persistent=False)
        self.register_buffer("empty", torch.from_numpy(np.flatnonzero(~covered)), persistent=False)
        speaking = np.bincount(columns.indices, minlength=columns.shape[1]) > 0
        self.register_buffer("speaking", torch.from_numpy(speaking.astype("float32")), persistent=False)

    @classmethod
    def of(cls, alignment: Alignment) -> Projection:
        """The projection of an alignment."""
        return cls(alignment.row_weights, alignment.column_weights)

    @classmethod
    def identity(cls, size: int) -> Projection:
        """Every token speaks for itself: one vocabulary as source and target."""
        eye = sp.csr_array(sp.identity(size, dtype="float32", format="csr"))
        return cls(eye, eye)

    def linear(self, delta: Tensor, p_target: Tensor) -> Tensor:
        """W @ z_delta - k.

        Args:
            delta: The change of logits z_delta, (n, |S|), finite; what is beyond 150 from end to end is cut where
                tokens are empty.
            p_target: The base model's probabilities, (n, |T|).

        Returns:
            The change of the base's logits, (n, |T|); 0 where nobody speaks, and where z_delta is 0.
        """
        if self.covers_all:
            return self.rows(delta)
        change, _, differs = _centred(delta)
        change = self.rows(change)
        changed = (change.exp() * p_target).index_fill_(-1, self.empty, 0.0)
        return change.sub_(self._constant(changed, p_target) * differs).index_fill_(-1, self.empty, 0.0)

    def exponential(self, delta: Tensor, p_target: Tensor) -> Tensor:
        """log(R @ exp(z_delta)) - k; arguments and result as for `linear`, cut in any case."""
        change, middle, differs = _centred(delta)
        mean = self.rows(change.exp_())
        constant = -middle if self.covers_all else self._constant(mean * p_target, p_target) * differs
        # A row's weights sum to 1 but for rounding: without `differs`, the change of a constant were not a constant.
        return mean.log_().mul_(differs).sub_(constant).index_fill_(-1, self.empty, 0.0)

    def static(self, p_source: Tensor, p_target: Tensor, ahead: LookaheadSplit | None = None) -> Tensor:
        """C @ p_S.

        Args:
            p_source: m donors' probabilities, (m, n, |S|).
            p_target: The base model's, (n, |T|); used for tokens that nobody speaks for.
            ahead: What the donors say after some of their tokens; these are split by that, not by C.

        Returns:
            Probabilities (m, n, |T|).
        """
        scale = self._scale(p_source, p_target)
        if ahead is None:
            carried = self.columns(p_source)
        else:
            ratio, added, at = ahead.split(p_source, self.speaking.expand(p_source.shape[1:]), None)
            carried = self.columns(p_source.index_put((_all(p_source), ahead.position, ahead.token), ratio))
        kept = p_target.index_select(-1, self.empty)
        carried.mul_(scale).index_copy_(-1, self.empty, kept.expand(*carried.shape[:-1], -1))
        if ahead is None:
            return carried
        return carried.index_put_((_all(p_source), at, ahead.candidates), added * scale[:, at, 0], accumulate=True)

    def informed(
        self, p_source: Tensor, p_target: Tensor, ahead: LookaheadSplit | None = None, image: Tensor | None = None
    ) -> Tensor:
        """log(q_T / p_T) = log(R @ (p_S / (R^T @ p_T))); arguments as for `static`, and R^T @ p_T if it is known.

        What the donor gives to source tokens whose every target token has a p_T that float32 holds as 0 is lost.

        Returns:
            Changes of the base's logits (m, n, |T|), finite; 0 where nobody speaks.
        """
        image = self.image(p_target) if image is None else image
        scale = self._scale(p_source, p_target)
        ratio = (p_source / image).mul_(scale)
        if ahead is None:
            return self.rows.logs(ratio)
        split, added, at = ahead.split(p_source, image, p_target)
        ratio.index_put_((_all(p_source), ahead.position, ahead.token), split * scale[:, ahead.position, 0])
        change = self.rows.logs(ratio)
        places, which = torch.unique(at * p_target.shape[1] + ahead.candidates, return_inverse=True)
        more = added.new_zeros(len(added), len(places)).index_add_(1, which, added * scale[:, at, 0])
        log_more = (more / p_target.flatten()[places].clamp_min(_TINY)).clamp_(_TINY, 1 / _TINY).log_()
        flat = change.view(len(change), -1)
        flat[:, places] = torch.logaddexp(flat[:, places], log_more)
        return change

    def image(self, p_target: Tensor) -> Tensor:
        """The base's distribution on the source vocabulary, R^T @ p_T: (n, |T|) -> (n, |S|), nowhere 0."""
        return self.rows_transposed(p_target).clamp_min_(_TINY)

    def _scale(self, p_source: Tensor, p_target: Tensor) -> Tensor:
        """Own over the mass of the source tokens that speak, (..., n, 1)."""
        return (self._own(p_target) / (p_source @ self.speaking).clamp_min_(_TINY)).unsqueeze(-1)

    def _own(self, p_target: Tensor) -> Tensor:
        """What the base gives the tokens that are covered, (n,)."""
        return p_target @ self.covered

    def _constant(self, changed: Tensor, p_target: Tensor) -> Tensor:
        """k, from p_T exp(delta_T) and p_T: (n, |T|) twice -> (n, 1)."""
        own = self._own(p_target).clamp_min_(_TINY)
        return (changed.sum(-1).clamp_min_(_TINY) / own).log_().unsqueeze(-1)


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


def _all(p_source: Tensor) -> Tensor:
    """Indices of all donors, to stand before those of positions and tokens."""
    return torch.arange(p_source.shape[0], device=p_source.device).unsqueeze(-1)


def _centred(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moves each row's middle to 0 and cuts what exp cannot hold; the middle; 1 where a row's values differ, else 0."""
    low, high = delta.amin(-1, keepdim=True), delta.amax(-1, keepdim=True)  # aminmax takes ten times as long
    middle = low + (high - low) / 2
    return (delta - middle).clamp_(-_FAR, _FAR), middle, (high > low).to(delta.dtype)
