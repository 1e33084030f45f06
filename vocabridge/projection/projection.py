"""The sparse matrices of an alignment on the model's device, which project scores from the source to the target.

R is the alignment's count matrix with its rows normalized to sum 1; C has its columns normalized. p_T
is the base model's distribution. Each file of `methods` applies these matrices in one way. All methods treat tokens
without a partner alike:

- An unmapped target token, which has no aligned source token, keeps the base's probability, so its logit does not
  change. An unmapped source token is left out of p_S.
- The mapped target tokens share the probability that the base gives all of them together, the mapped mass
  M = sum of their p_T. A projected distribution is scaled to M. Because R's rows and C's columns sum to 1, this scale
  is known before the product.
- A change of logits is defined up to a constant k. It is chosen so that the sum of p_T exp(delta_T) over the mapped
  tokens is M. Where every target token is mapped, k has no effect and is 0.

No dense matrix of size |T| x |S| is ever made.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment
from vocabridge.projection.sparse import SparseMatrix

TINY = 1e-37  # just above float32's underflow


class Projection(nn.Module):
    """The sparse matrices of an alignment, as buffers that move with the module.

    Everything is float32 with the vocabulary last: (n, |S|) in, (n, |T|) out. No method synchronizes with the device.

    Attributes:
        rows: R, (|T|, |S|).
        rows_transposed: R^T, (|S|, |T|).
        columns: C, (|T|, |S|).
        mapped_target: 1 for each target token with an aligned source token, else 0, float32 (|T|,).
        unmapped_target: The ids of the other target tokens, int64.
        mapped_source: 1 for each source token with an aligned target token, else 0, float32 (|S|,).
        maps_all_targets: Whether every target token is mapped.
    """

    mapped_target: Tensor
    unmapped_target: Tensor
    mapped_source: Tensor

    def __init__(self, rows: sp.csr_array, columns: sp.csr_array) -> None:
        """Take both normalizations of one count matrix.

        Args:
            rows: R, (|T|, |S|); each row sums to 1 or is empty.
            columns: C, (|T|, |S|); each column sums to 1 or is empty.
        """
        super().__init__()
        self.rows = SparseMatrix(rows)
        self.rows_transposed = SparseMatrix(rows.T.tocsr())
        self.columns = SparseMatrix(columns)
        mapped = rows.indptr[1:] > rows.indptr[:-1]
        self.maps_all_targets = bool(mapped.all())
        mapped_source = np.bincount(columns.indices, minlength=columns.shape[1]) > 0
        for name, values in (
            ("mapped_target", mapped.astype("float32")),
            ("unmapped_target", np.flatnonzero(~mapped)),
            ("mapped_source", mapped_source.astype("float32")),
        ):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    @classmethod
    def of(cls, alignment: Alignment) -> Projection:
        """Return the projection of an alignment."""
        return cls(alignment.row_weights, alignment.column_weights)

    @classmethod
    def identity(cls, size: int) -> Projection:
        """Return the projection of a vocabulary onto itself, token by token."""
        eye = sp.csr_array(sp.identity(size, dtype="float32", format="csr"))
        return cls(eye, eye)

    def base_on_source_vocab(self, p_target: Tensor) -> Tensor:
        """Return R^T @ p_T, the base's distribution on the source vocabulary, clamped above 0: (n, |T|) -> (n, |S|)."""
        return self.rows_transposed(p_target).clamp_min_(TINY)

    def scale(self, p_source: Tensor, p_target: Tensor) -> Tensor:
        """Return M over the mass of the mapped source tokens, (..., n, 1)."""
        return (self._mapped_mass(p_target) / (p_source @ self.mapped_source).clamp_min_(TINY)).unsqueeze(-1)

    def constant(self, changed: Tensor, p_target: Tensor) -> Tensor:
        """Return k.

        Args:
            changed: p_T exp(delta_T) of the mapped target tokens before k is subtracted, 0 for others, (n, |T|).
            p_target: p_T, (n, |T|).

        Returns:
            k, (n, 1).
        """
        mapped_mass = self._mapped_mass(p_target).clamp_min_(TINY)
        return (changed.sum(-1).clamp_min_(TINY) / mapped_mass).log_().unsqueeze(-1)

    def _mapped_mass(self, p_target: Tensor) -> Tensor:
        """Return M, the base's probability of all mapped target tokens together, (n,)."""
        return p_target @ self.mapped_target
