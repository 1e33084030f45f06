"""The places in texts at which a source predicts, and the covers of the text there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CoverNode:
    """A cover of a text, as a node of its row's tree.

    Attributes:
        node: Where the cover's tokens end.
        pending: The bytes that the next token has to begin with.
        steps: The (parent, token) pairs behind the node that all covers of the text share.
        log_p: Log P of these steps by model (`cover_pruning`); empty where a cover is the only one.
        can_end: Whether the cover is the encoding of the text as it stands. A tokenizer makes any other cover only of a
            longer text, so no control token may follow it.
    """

    node: int
    pending: bytes
    steps: tuple[tuple[int, int], ...] = ()
    log_p: Mapping[str, float] = field(default_factory=dict)
    can_end: bool = False


@dataclass(frozen=True)
class Position:
    """A place in a text at which the source predicts.

    Attributes:
        row: Which text of the batch.
        text_end: The end of the text that decides where the base's tokenizer cuts; empty before any text.
        covers: The covers; none where the source makes no prediction.
    """

    row: int
    text_end: bytes
    covers: tuple[CoverNode, ...]

    @property
    def nodes(self) -> list[int]:
        """The nodes after which the models have to predict here: the covers' ends, and those that weigh the covers."""
        steps = [parent for cover in self.covers for parent, _ in cover.steps]
        return list(dict.fromkeys([*(cover.node for cover in self.covers), *steps]))

    @property
    def needs_healing(self) -> bool:
        """Whether the text's end need not be the end of a token."""
        return len(self.covers) > 1 or any(cover.pending for cover in self.covers)

    @property
    def trunk(self) -> list[int]:
        """The nodes that have to be read whichever covers are kept: those of the text as it stands."""
        if len(self.covers) < 2:
            return self.nodes
        branches = [cover.steps[0][0] for cover in self.covers if cover.steps]
        as_is = self.covers[0]
        return list(dict.fromkeys([as_is.node, *(parent for parent, _ in as_is.steps), *branches]))
