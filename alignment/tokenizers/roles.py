"""Pairs of control tokens with the same role in two vocabularies, and the entries of an alignment that they pin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import scipy.sparse as sp

PINNED_ROLES = ("eos", "bos", "turn end", "turn begin", "turn content", "pad", "unk")
"""The roles by which tokens are paired, in order of precedence."""

_MEANING = {"turn end": "eos", "turn begin": "bos"}
"""Roles with the same meaning as another one: the end of a response, and the beginning of something."""


class HasRoles(Protocol):
    """A vocabulary, or the record of one in an alignment."""

    @property
    def size(self) -> int:
        """The number of ids."""

    @property
    def control_roles(self) -> Mapping[str, int]:
        """Role -> id, for the roles that control tokens have."""


def pin_roles(counts: sp.csr_array, source: HasRoles, target: HasRoles) -> sp.csr_array:
    """Align tokens of the same role with each other and with nothing else.

    A token may have several roles. If its roles mean the same, as `eos` and `turn end` do, it is paired with a token of
    the other vocabulary for each role. For example, the single `<|im_end|>` of a source is the only entry in the rows
    of a target's `<eos>` and `<end_of_turn>`, and its column splits its probability evenly between the two. If its
    roles mean different things, the role that comes first in `PINNED_ROLES` counts: GPT-2's token for both begin and
    end is paired as an end token.

    The unknown tokens keep their other entries, because the text of many tokens becomes the unknown token.

    Args:
        counts: The counts of an alignment, (|T|, |S|).
        source: The source vocabulary S.
        target: The target vocabulary T.

    Returns:
        The pinned counts, (|T|, |S|) float32 CSR.
    """
    pairs = role_pairs(source, target)
    pinned = np.array(sorted({(y, w) for _, y, w in pairs}), np.int64).reshape(-1, 2)
    kept = _without_pinned(counts.tocoo(), pairs)
    return _summed(
        np.concatenate((kept.coords[0], pinned[:, 0])),
        np.concatenate((kept.coords[1], pinned[:, 1])),
        np.concatenate((kept.data, np.ones(len(pinned)))),
        (target.size, source.size),
    )


def pin_again(
    counts: sp.csr_array, before: tuple[HasRoles, HasRoles], source: HasRoles, target: HasRoles
) -> sp.csr_array:
    """Replace the pinned entries after roles have changed, and add or cut rows and columns at the end.

    Args:
        counts: The counts that `pin_roles` returned.
        before: The source and the target that `pin_roles` was given.
        source: The source vocabulary S now, with the same text tokens.
        target: The target vocabulary T now, with the same text tokens.

    Returns:
        The pinned counts, float32 CSR, with the sizes that the vocabularies have now.
    """
    entries = _without_pinned(counts.tocoo(), role_pairs(*before))
    kept = (entries.coords[0] < target.size) & (entries.coords[1] < source.size)
    rows, columns = entries.coords
    resized = _summed(rows[kept], columns[kept], entries.data[kept], (target.size, source.size))
    return pin_roles(resized, source, target)


def role_pairs(source: HasRoles, target: HasRoles) -> list[tuple[str, int, int]]:
    """Return (role, target id, source id) of the shared roles, without those that one of higher precedence excludes."""
    pairs: list[tuple[str, int, int]] = []
    for role in PINNED_ROLES:
        y, w = target.control_roles.get(role), source.control_roles.get(role)
        if y is None or w is None:
            continue
        touching = [other for other, other_y, other_w in pairs if y == other_y or w == other_w]
        if all(_MEANING.get(other, other) == _MEANING.get(role, role) for other in touching):
            pairs.append((role, y, w))
    return pairs


def _without_pinned(entries: sp.coo_array, pairs: list[tuple[str, int, int]]) -> sp.coo_array:
    """Remove the entries of paired tokens; of the unknown tokens, remove only the entry of their pair."""
    rows, columns = entries.coords
    exclusive = [(y, w) for role, y, w in pairs if role != "unk"]
    removed = np.isin(rows, [y for y, _ in exclusive]) | np.isin(columns, [w for _, w in exclusive])
    for _, y, w in pairs:
        removed |= (rows == y) & (columns == w)
    return sp.coo_array((entries.data[~removed], (rows[~removed], columns[~removed])), shape=entries.shape)


def _summed(rows: np.ndarray, columns: np.ndarray, data: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    """Return the float32 CSR matrix of these entries; entries at the same place are added in float64."""
    return sp.coo_array((data.astype(np.float64), (rows, columns)), shape=shape).tocsr().astype(np.float32)
