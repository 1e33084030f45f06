"""Positions in texts at which a source predicts, and the covers of the text there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CoverNode:
    """A cover of a text, as a node of its row's tree.

    Attributes:
        node: The node of the cover's last token.
        pending: The bytes that the next token has to begin with.
        steps: The (parent node, token) pairs after the last node that all covers of the text share.
        log_p: The log-probability of these steps by model (`cover_pruning`); empty where a cover is the only one.
        can_end: Whether the cover is the encoding of the text as it stands. A tokenizer yields any other cover only for
            a longer text, so no control token may follow it.
    """

    node: int
    pending: bytes
    steps: tuple[tuple[int, int], ...] = ()
    log_p: Mapping[str, float] = field(default_factory=dict)
    can_end: bool = False


@dataclass(frozen=True)
class Position:
    """A position in a text at which the source predicts.

    Attributes:
        row: The index of the text in the batch.
        text_end: The end of the text: its last target token, with those before it of the same word; empty before any
            text.
        covers: The covers of the text; none where the source makes no prediction.
    """

    row: int
    text_end: bytes
    covers: tuple[CoverNode, ...]

    @property
    def nodes(self) -> list[int]:
        """The nodes after which predictions are needed: the covers' last nodes, and the parents of their steps."""
        steps = [parent for cover in self.covers for parent, _ in cover.steps]
        return list(dict.fromkeys([*(cover.node for cover in self.covers), *steps]))

    @property
    def needs_healing(self) -> bool:
        """Whether the text's end may be inside a source token."""
        return len(self.covers) > 1 or any(cover.pending for cover in self.covers)

    @property
    def trunk(self) -> list[int]:
        """The nodes that are needed whichever covers are kept: those of the text as it stands and the branch points."""
        if len(self.covers) < 2:
            return self.nodes
        branches = [cover.steps[0][0] for cover in self.covers if cover.steps]
        as_is = self.covers[0]
        return list(dict.fromkeys([as_is.node, *(parent for parent, _ in as_is.steps), *branches]))
