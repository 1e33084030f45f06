"""Which control tokens mean the same in two vocabularies, and the rows and columns that an alignment pins for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import scipy.sparse as sp

PINNED_ROLES = ("eos", "bos", "turn end", "turn begin", "turn content", "pad", "unk")
"""The roles in which tokens are paired, the strongest first."""

_MEANING = {"turn end": "eos", "turn begin": "bos"}
"""Roles that mean what another one means: a response stops, something starts."""


class HasRoles(Protocol):
    """A vocabulary, or what an alignment remembers of one."""

    @property
    def size(self) -> int:
        """The number of ids."""

    @property
    def control_roles(self) -> Mapping[str, int]:
        """The ids of the roles that control tokens have."""


def pin_roles(counts: sp.csr_array, source: HasRoles, target: HasRoles) -> sp.csr_array:
    """Let tokens of the same role speak for each other and for nothing else.

    A token may have several roles. Where its roles mean one thing, as `eos` and `turn end` do, it is paired with
    each of its partners, and they share it: the one `<|im_end|>` of a source speaks in full for the `<eos>` and for
    the `<end_of_turn>` of a target (a row each), and its probability is split evenly between the two (its column).
    Where they mean different things, the role that comes first in `PINNED_ROLES` has the token: GPT-2's one token
    for begin and end is the end.

    Many tokens become the unknown token, so it keeps them beside its partner.

    Args:
        counts: (|T|, |S|).
        source: S.
        target: T.

    Returns:
        (|T|, |S|) float32 CSR.
    """
    pairs = role_pairs(source, target)
    pinned = np.array(sorted({(y, w) for _, y, w in pairs}), np.int64).reshape(-1, 2)
    open_ = _without(counts.tocoo(), pairs)
    return _summed(
        np.concatenate((open_.coords[0], pinned[:, 0])),
        np.concatenate((open_.coords[1], pinned[:, 1])),
        np.concatenate((open_.data, np.ones(len(pinned)))),
        (target.size, source.size),
    )


def pin_again(
    counts: sp.csr_array, before: tuple[HasRoles, HasRoles], source: HasRoles, target: HasRoles
) -> sp.csr_array:
    """Replace the pins of pinned counts by those of other roles, and add or cut rows and columns at the end.

    Args:
        counts: What `pin_roles` returned.
        before: The source and the target that it was given.
        source: S as it is now: the same text tokens.
        target: T as it is now.

    Returns:
        (|T|, |S|) float32 CSR, of the sizes of now.
    """
    entries = _without(counts.tocoo(), role_pairs(*before))
    kept = (entries.coords[0] < target.size) & (entries.coords[1] < source.size)
    rows, columns = entries.coords
    resized = _summed(rows[kept], columns[kept], entries.data[kept], (target.size, source.size))
    return pin_roles(resized, source, target)


def role_pairs(source: HasRoles, target: HasRoles) -> list[tuple[str, int, int]]:
    """Return (role, target id, source id) of the roles that both have, without those that a stronger one excludes."""
    pairs: list[tuple[str, int, int]] = []
    for role in PINNED_ROLES:
        y, w = target.control_roles.get(role), source.control_roles.get(role)
        if y is None or w is None:
            continue
        touching = [other for other, other_y, other_w in pairs if y == other_y or w == other_w]
        if all(_MEANING.get(other, other) == _MEANING.get(role, role) for other in touching):
            pairs.append((role, y, w))
    return pairs


def _without(entries: sp.coo_array, pairs: list[tuple[str, int, int]]) -> sp.coo_array:
    """Return the entries that pins leave: nothing beside a pin, but what the unknown token has."""
    rows, columns = entries.coords
    alone = [(y, w) for role, y, w in pairs if role != "unk"]
    taken = np.isin(rows, [y for y, _ in alone]) | np.isin(columns, [w for _, w in alone])
    for _, y, w in pairs:
        taken |= (rows == y) & (columns == w)
    return sp.coo_array((entries.data[~taken], (rows[~taken], columns[~taken])), shape=entries.shape)


def _summed(rows: np.ndarray, columns: np.ndarray, data: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    """Return the float32 CSR matrix of these entries."""
    return sp.coo_array((data.astype(np.float64), (rows, columns)), shape=shape).tocsr().astype(np.float32)
