"""An alignment on the model's device: the sparse products that method scores from the source to the target vocabulary.

W = R are the rows of the alignment's counts normalized to 1, C its columns; p_T is the base model's distribution. Each
file of `methods` is one way to apply them. What all methods share:

A target token without any aligned source token ("unmapped") keeps the base's probability, and its logit does not
change. Unmapped source tokens are left out of p_S. So the mapped target tokens share among them what the base gives
them, own = the sum of their p_T. Distributions are scaled to own. A change of logits leaves a constant open; it is k,
chosen so that sum p_T exp(delta_T) = own. Where every target token is mapped, k has no effect and is 0. R's rows and
C's columns sum to 1, so the scale of a distribution is known before the product that needs it.

Nothing of size |S| x |T| is ever made.
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

    Everything is float32 with the vocabulary last: (n, |S|) in, (n, |T|) out. No method waits for the device.
    """

    mapped_target: Tensor
    unmapped_target: Tensor
    mapped_source: Tensor

    def __init__(self, rows: sp.csr_array, columns: sp.csr_array) -> None:
        """Take the two normalizations of one count matrix.

        Args:
            rows: R (and W), (|T|, |S|), rows that sum to 1 or are empty.
            columns: C, (|T|, |S|), columns that sum to 1 or are empty.
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
        """Return R^T @ p_T, the base's distribution on the source vocabulary: (n, |T|) -> (n, |S|), nowhere 0."""
        return self.rows_transposed(p_target).clamp_min_(TINY)

    def scale(self, p_source: Tensor, p_target: Tensor) -> Tensor:
        """Return own over the mass of the mapped source tokens, (..., n, 1)."""
        return (self._own(p_target) / (p_source @ self.mapped_source).clamp_min_(TINY)).unsqueeze(-1)

    def constant(self, changed: Tensor, p_target: Tensor) -> Tensor:
        """Return k, from p_T exp(delta_T) and p_T: (n, |T|) twice -> (n, 1)."""
        own = self._own(p_target).clamp_min_(TINY)
        return (changed.sum(-1).clamp_min_(TINY) / own).log_().unsqueeze(-1)

    def _own(self, p_target: Tensor) -> Tensor:
        """Return what the base gives the mapped target tokens, (n,)."""
        return p_target @ self.mapped_target
