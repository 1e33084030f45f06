"""What a value source reads and says along a batch of texts that a base model of another vocabulary writes.

    the base's tokens --bytes--> Reader --covers--> TokenForest --logits--> Healer --> Scores over S

At every position that is asked for, the source's tokens are those of all text so far, and nothing it could know
only from what follows. Where the text's end need not be the end of one of its own tokens, the policy says whether
it is heard as it stands, not at all, or after all its ways to cut the text (`healing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vocabridge.decoding.incremental_tokenizer import IncrementalTokenizer, Piece
from vocabridge.decoding.token_tree import ROOT
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.boundary import LETTER, kind
from vocabridge.projection.cover_pruning import Step, weigh
from vocabridge.projection.source_predictions import Asked, Position, Said
from vocabridge.projection.token_healing import TokenHealer

_WORD = 6
"""At most so many of the base's tokens are taken for one word."""


@dataclass
class _Text:
    """One text of the batch.

    Attributes:
        reader: The source's.
        beginning: What stands for the base's prompt where each model has its own.
        tokens: The base's, as what the text grows by with each.
        head: The node of the last settled token.
        heads: How many are settled.
        latest: The position after the last token that was text; None before anyone has asked.
    """

    reader: IncrementalTokenizer
    beginning: tuple[Piece, ...]
    tokens: list[Piece]
    head: int = ROOT
    heads: int = 0
    latest: Position | None = None


class Reading:
    """What one value source has read so far, for every row of a batch.

    Attributes:
        source: The value source.
        models: Names of its models that read along.
        healer: From its vocabulary to the base's.
        policy: What it says where tokens do not end together.
        forest: The source's tokens of all rows, and what its models say after some.
    """

    def __init__(
        self, source: ValueSource, models: set[str], healer: TokenHealer, policy: BoundaryPolicy, batch: int
    ) -> None:
        """Starts with empty texts.

        Args:
            source: The value source.
            models: Those of its models whose logits are wanted; not empty.
            healer: From its vocabulary to the base's.
            policy: What it says where tokens do not end together.
            batch: Number of rows.
        """
        self.models = models
        self.policy = policy
        self.forest = TreeDecoder({name: source.models[name] for name in sorted(models)}, batch)
        self.source = source
        self.healer = healer
        self._texts = [self._begun(()) for _ in range(batch)]

    @property
    def length(self) -> int:
        """How many tokens of the base's each row has been given."""
        return len(self._texts[0].tokens)

    @property
    def interrupted(self) -> bool:
        """Whether a step was broken off, so that what was read is not what is remembered."""
        return self.forest.interrupted

    def prime(self, row: int, beginning: Sequence[Piece]) -> None:
        """Gives a row a beginning of its own: a prompt that each model has in its own words, such as a chat's.

        The tokens of the base's prompt are then read as pieces without text.
        """
        self._texts[row] = self._begun(tuple(beginning))

    def _begun(self, beginning: tuple[Piece, ...]) -> _Text:
        text = _Text(IncrementalTokenizer(self.source.vocabulary), beginning, [])
        for piece in beginning:
            text.reader.append_piece(piece)
        return text

    def read_on(self, row: int, tokens: Sequence[Piece]) -> None:
        """Reads on without being asked."""
        text = self._texts[row]
        text.tokens += tokens
        if any(piece != b"" for piece in tokens):
            text.latest = None
        for token in tokens:
            text.reader.append_piece(token)

    def read(self, tokens: Sequence[Sequence[Piece]], keep: int) -> Said:
        """Reads on, and hears the source after each of the last `keep` tokens.

        Args:
            tokens: For each row the same number n of the base's tokens, as what the text grows by with each.
            keep: How many positions to answer for, 1 to n.

        Returns:
            What the source says, rows x keep positions, row by row.
        """
        positions = []
        for row, several in enumerate(tokens):
            self.read_on(row, several[: len(several) - keep])
            for token in several[len(several) - keep :]:
                self.read_on(row, [token])
                positions.append(self._position(row))
        if keep > 1:  # what is in front of other covers is not read yet: it decides which of them are
            self._hear(positions, [position.trunk for position in positions])
        known: dict[Step, dict[str, float]] = {}
        positions = weigh(self.source, self.forest, positions, known)
        self._hear(positions, [position.nodes for position in positions])
        positions = weigh(self.source, self.forest, positions, known)
        for row, text in enumerate(self._texts):
            if text.head != ROOT:
                self.forest.commit_prefix(row, text.head)
        return Said(self.source, self.forest, self.healer, self.policy, positions)

    def _hear(self, positions: Sequence[Position], nodes: Sequence[Sequence[int]]) -> None:
        """Reads so that the models are heard after some nodes of each position."""
        wanted: list[list[int]] = [[] for _ in self._texts]
        for position, several in zip(positions, nodes, strict=True):
            wanted[position.row] += several
        self.forest.read(wanted)

    def _position(self, row: int) -> Position:
        text = self._texts[row]
        if text.latest is None:
            written = _end(text.tokens)
            text.latest = Position(row, written, self._ask(row, written))
        return text.latest

    def _ask(self, row: int, written: bytes) -> tuple[Asked, ...]:
        """The covers of a row's text that are worth asking after, put into its tree."""
        text, tree = self._texts[row], self.forest.trees[row]
        covers = text.reader.covers(all_ways=self.policy is not BoundaryPolicy.AS_IS)
        text.head = tree.add(text.reader.settled[text.heads :], text.head)
        text.heads = len(text.reader.settled)
        if self.policy is BoundaryPolicy.SKIP and text.reader.half:
            return ()
        asked = []
        for number, cover in enumerate(covers):
            if cover.pending and (
                self.policy is BoundaryPolicy.AS_IS or not written or not self.healer.may_run_on(cover.pending, written)
            ):
                continue
            node = tree.add(cover.ids, text.head)
            if node == ROOT:  # no token yet, and no begin token: nothing that a model could be asked after
                continue
            asked.append(Asked(node, cover.pending, may_end=number == 0 and not cover.pending))
        if len(asked) < 2:
            return tuple(asked)
        paths = [_below(tree.parents, one.node, text.head) for one in asked]
        shared = min(map(len, paths))
        while any(path[:shared] != paths[0][:shared] for path in paths):
            shared -= 1
        return tuple(
            replace(
                one,
                steps=tuple(
                    (tree.parents[node], tree.tokens[node]) for node in path[shared:] if tree.parents[node] != ROOT
                ),
            )
            for one, path in zip(asked, paths, strict=True)
        )

    def crop(self, row: int, tokens: int) -> None:
        """Takes back all but the first so many tokens of a row; nothing that stays is read again."""
        text = self._texts[row]
        self._texts[row] = self._begun(text.beginning)
        self.read_on(row, text.tokens[:tokens])

    def reorder(self, rows: Tensor) -> None:
        """Keeps the rows with these indices, in this order; (rows,) int64, any number of them."""
        self.forest.reorder(rows)
        texts = [self._texts[i] for i in rows.tolist()]
        self._texts = [
            replace(
                text,
                reader=text.reader.copy(),
                tokens=list(text.tokens),
                latest=None if text.latest is None else replace(text.latest, row=row),
            )
            for row, text in enumerate(texts)
        ]


def _end(tokens: Sequence[Piece]) -> bytes:
    """The end of a text: its last token, and those before it back to the beginning of the word or to a control."""
    pieces: list[bytes] = []
    for piece in reversed(tokens):
        if isinstance(piece, int) or len(pieces) == _WORD:
            break
        if piece:
            pieces.append(piece)
            if kind(piece) != LETTER:
                break
    return b"".join(reversed(pieces))


def _below(parents: Sequence[int], node: int, head: int) -> list[int]:
    """The nodes on the way from a settled node down to one behind it, without the settled one."""
    path = []
    while node != head:
        path.append(node)
        node = parents[node]
    return path[::-1]
