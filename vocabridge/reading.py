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

from vocabridge.alignment import Place, Rule, Vocabulary
from vocabridge.boundary import LETTER, kind
from vocabridge.healing import Healer
from vocabridge.policy import Policy
from vocabridge.reader import Cover, Piece, Reader
from vocabridge.said import Asked, Position, Said
from vocabridge.token_forest import TokenForest
from vocabridge.tree import ROOT
from vocabridge.value_source import ValueSource
from vocabridge.weighing import Step, weigh

_WORD = 6
"""At most so many of the base's tokens are taken for one word."""


@dataclass
class _Text:
    """One text of the batch.

    Attributes:
        reader: The source's.
        beginning: What stands for the base's prompt where each model has its own.
        tokens: The base's, as what the text grows by with each.
        places: Where the text of the next of them stands, before any and after each.
        head: The node of the last settled token.
        heads: How many are settled.
        latest: The position after the last token that was text; None before anyone has asked.
    """

    reader: Reader
    beginning: tuple[Piece, ...]
    tokens: list[Piece]
    places: list[Place]
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
        self,
        source: ValueSource,
        models: set[str],
        healer: Healer,
        policy: Policy,
        batch: int,
        target: Vocabulary | None = None,
    ) -> None:
        """Starts with empty texts.

        Args:
            source: The value source.
            models: Those of its models whose logits are wanted; not empty.
            healer: From its vocabulary to the base's.
            policy: What it says where tokens do not end together.
            batch: Number of rows.
            target: The base's vocabulary, if its tokens may hold a space that is in no text (`PrefixSpace`).
        """
        self._target = target
        self.models = models
        self.policy = policy
        self.forest = TokenForest({name: source.models[name] for name in sorted(models)}, batch)
        self.source = source
        self.healer = healer
        self._texts = [self._begun((), Place.BEGINNING) for _ in range(batch)]

    @property
    def length(self) -> int:
        """How many tokens of the base's each row has been given."""
        return len(self._texts[0].tokens)

    @property
    def interrupted(self) -> bool:
        """Whether a step was broken off, so that what was read is not what is remembered."""
        return self.forest.interrupted

    def prime(self, row: int, beginning: Sequence[Piece], place: Place = Place.INSIDE) -> None:
        """Gives a row a beginning of its own: a prompt that each model has in its own words, such as a chat's.

        The tokens of the base's prompt are then read as pieces without text.

        Args:
            row: Which.
            beginning: What the source reads.
            place: Where the text stands that the base writes behind its own prompt.
        """
        self._texts[row] = self._begun(tuple(beginning), place)

    def _begun(self, beginning: tuple[Piece, ...], place: Place) -> _Text:
        text = _Text(Reader(self.source.vocabulary), beginning, [], [place])
        for piece in beginning:
            text.reader.push(piece)
        return text

    def read_on(self, row: int, tokens: Sequence[Piece]) -> None:
        """Reads on without being asked."""
        text = self._texts[row]
        for token in tokens:
            place = text.places[-1]
            if self._target is not None and isinstance(token, bytes):
                self._push(text, self._target.prefix_space.strip(token, place), place.after(token))
            else:
                self._push(text, token, place.after(token))

    def _push(self, text: _Text, token: Piece, place: Place) -> None:
        """Reads what is text of a token, behind which more text stands at a place."""
        if token != b"" or place is not text.places[-1]:
            text.latest = None
        text.tokens.append(token)
        text.places.append(place)
        text.reader.push(token)

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
                self.forest.settle(row, text.head)
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

    def _waits(self, text: _Text) -> bool:
        """Whether the base's next token, if it is text, begins with a space that is in no text."""
        return self._target is not None and self._target.prefix_space.rule(text.places[-1]) is not Rule.NEVER

    def _ask(self, row: int, written: bytes) -> tuple[Asked, ...]:
        """The covers of a row's text that are worth asking after, put into its tree."""
        text, tree = self._texts[row], self.forest.trees[row]
        covers = text.reader.covers(all_ways=self.policy is not Policy.RETOKENIZE)
        if self._waits(text) and not text.reader.waits:
            covers = []  # the base's next token holds a space that the source would not write
        elif text.reader.waits and not text.reader.half and not self._waits(text):
            covers = [Cover((), b" ")]  # the other way round
        text.head = tree.add(text.reader.settled[text.heads :], text.head)
        text.heads = len(text.reader.settled)
        if self.policy is Policy.SKIP and text.reader.half:
            return ()
        asked = []
        for number, cover in enumerate(covers):
            if cover.pending and (
                self.policy is Policy.RETOKENIZE
                or not (written or text.reader.waits)
                or not self.healer.may_run_on(cover.pending, written)
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
        begun = self._texts[row] = self._begun(text.beginning, text.places[0])
        for token, place in zip(text.tokens[:tokens], text.places[1:], strict=False):
            self._push(begun, token, place)

    def reorder(self, rows: Tensor) -> None:
        """Keeps the rows with these indices, in this order; (rows,) int64, any number of them."""
        self.forest.reorder(rows)
        texts = [self._texts[i] for i in rows.tolist()]
        self._texts = [
            replace(
                text,
                reader=text.reader.copy(),
                tokens=list(text.tokens),
                places=list(text.places),
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
