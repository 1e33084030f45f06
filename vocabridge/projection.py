"""Applies an alignment to a value source's scores, on the model's device: source vocabulary in, target out.

    linear       delta_T = W @ z_delta
    exponential  delta_T = log(R @ exp(z_delta))
    static       q_T = C @ p_S
    informed     q_T = p_T * (R @ (p_S / (R^T @ p_T)))

W = R are the rows of the alignment's counts normalised to 1, C its columns. Everything is sparse: one product
costs as much as the matrix has entries, and nothing of size |S| x |T| is ever made. A target token that nobody
speaks for keeps what it has: a change of 0, or the base model's own probability; likewise the source tokens that
speak for nobody are left out of p_S. Source of the first: arXiv 2410.21027 (which did not release how its matrix
is applied; this is the reading that fits its shape). Of the last: one Bayes step, half an iteration of iterative
proportional fitting (Deming and Stephan, 1940).
"""

from __future__ import annotations

import warnings

import scipy.sparse as sp
import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment

_TINY = 1e-37  # just above float32's underflow


class Projection(nn.Module):
    """The maps from source scores to target scores, as buffers that move with the module.

    Everything is float32 with the vocabulary last: (n, |S|) in, (n, |T|) out.
    """

    rows: Tensor
    rows_transposed: Tensor
    columns: Tensor
    spoken_for: Tensor
    speaking: Tensor

    def __init__(self, rows: sp.csr_array, columns: sp.csr_array) -> None:
        """Takes the two normalisations of one count matrix.

        Args:
            rows: R (and W), (|T|, |S|), rows that sum to 1 or are empty.
            columns: C, (|T|, |S|), columns that sum to 1 or are empty.
        """
        super().__init__()
        self.register_buffer("rows", _csr(rows), persistent=False)
        self.register_buffer("rows_transposed", _csr(rows.T.tocsr()), persistent=False)
        self.register_buffer("columns", _csr(columns), persistent=False)
        spoken_for = torch.from_numpy(rows.indptr[1:] > rows.indptr[:-1])
        speaking = torch.from_numpy(columns.sum(axis=0) > 0)
        self.register_buffer("spoken_for", spoken_for, persistent=False)
        self.register_buffer("speaking", speaking, persistent=False)

    @classmethod
    def of(cls, alignment: Alignment) -> Projection:
        """The projection of an alignment."""
        return cls(alignment.row_weights, alignment.column_weights)

    @classmethod
    def identity(cls, size: int) -> Projection:
        """Every token speaks for itself: one vocabulary as source and target."""
        eye = sp.identity(size, dtype="float32", format="csr")
        return cls(sp.csr_array(eye), sp.csr_array(eye))

    def linear(self, delta: Tensor) -> Tensor:
        """W @ z_delta; 0 where nobody speaks."""
        return _product(self.rows, delta)

    def exponential(self, delta: Tensor) -> Tensor:
        """log(R @ exp(z_delta)); 0 where nobody speaks."""
        highest = delta.amax(-1, keepdim=True)
        mean = _product(self.rows, (delta - highest).exp())
        return torch.where(self.spoken_for, mean.clamp_min(_TINY).log() + highest, 0.0)

    def static(self, p_source: Tensor, p_target: Tensor) -> Tensor:
        """C @ p_S.

        Args:
            p_source: Donors' probabilities, (..., n, |S|).
            p_target: The base model's, (n, |T|); used for tokens that nobody speaks for.

        Returns:
            Probabilities (..., n, |T|).
        """
        return self._completed(_product(self.columns, self._speaking_mass(p_source)), p_target)

    def informed(self, p_source: Tensor, p_target: Tensor) -> Tensor:
        """p_T * (R @ (p_S / (R^T @ p_T))); arguments and result as for `static`."""
        image = _product(self.rows_transposed, p_target).clamp_min(_TINY)  # the base on the source vocabulary
        ratio = _product(self.rows, self._speaking_mass(p_source) / image)
        return self._completed(ratio * p_target, p_target)

    def _speaking_mass(self, p_source: Tensor) -> Tensor:
        mass = p_source * self.speaking
        return mass / mass.sum(-1, keepdim=True).clamp_min(_TINY)

    def _completed(self, carried: Tensor, p_target: Tensor) -> Tensor:
        """Scales to the mass that the tokens spoken for have under the base model; the others keep theirs."""
        own = (p_target @ self.spoken_for.to(p_target.dtype)).unsqueeze(-1)
        scale = own / carried.sum(-1, keepdim=True).clamp_min(_TINY)
        return torch.where(self.spoken_for, carried * scale, p_target)


def _product(matrix: Tensor, values: Tensor) -> Tensor:
    """Matrix @ values with the vocabulary last: (t, s), (..., s) -> (..., t)."""
    flat = values.reshape(-1, values.shape[-1])
    return (matrix @ flat.T).T.reshape(*values.shape[:-1], matrix.shape[0])


def _csr(matrix: sp.csr_array) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype("int64")),
            torch.from_numpy(matrix.indices.astype("int64")),
            torch.from_numpy(matrix.data.astype("float32")),
            size=matrix.shape,
            check_invariants=True,
        )
