"""Control tokens of two vocabularies that mean the same."""

from __future__ import annotations

from vocabridge.alignment import Vocabulary

_SAME_MEANING = ("eos", "turn begin", "turn content", "turn end")
"""Roles of control tokens that are read as the source's own; its bos token it has once, in front."""


def shared_control_tokens(source: Vocabulary, target: Vocabulary) -> dict[int, int]:
    """The source's control token for each of the target's that means the same."""
    both = [role for role in _SAME_MEANING if role in source.roles and role in target.roles]
    return {target.roles[role]: source.roles[role] for role in reversed(both)}
