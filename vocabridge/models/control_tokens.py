"""Control tokens of two vocabularies that have the same role."""

from __future__ import annotations

from vocabridge.alignment import Vocabulary

_SAME_MEANING = ("eos", "turn begin", "turn content", "turn end")
"""Roles whose tokens in the text are replaced by the source's. The bos token is absent: it stands in front, once."""


def shared_control_tokens(source: Vocabulary, target: Vocabulary) -> dict[int, int]:
    """Map the id of each control token of the target to that of the source's token with the same role."""
    shared_roles = [role for role in _SAME_MEANING if role in source.roles and role in target.roles]
    return {target.roles[role]: source.roles[role] for role in reversed(shared_roles)}
