"""What a value source reads and says along a batch of texts that a base model of another vocabulary writes.

    the base's tokens --bytes--> Reader --covers--> TokenForest --logits--> Healer --> Scores over S

At every position that is asked for, the source's tokens are those of all text so far, and nothing it could know
only from what follows. Where the text's end need not be the end of one of its own tokens, the policy says whether
it is heard as it stands, not at all, or after all its ways to cut the text (`healing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vocabridge.healing import Healer
from vocabridge.look_ahead import Ahead, LookAhead
from vocabridge.policy import Policy
from vocabridge.reader import Piece, Reader
from vocabridge.token_forest import TokenForest
from vocabridge.tree import ROOT
from vocabridge.value_source import Scores, ValueSource

_RUNS_ON = 0.5
"""Policy `skip` is silent where more than this share of the source's distribution would run across the boundary."""


_AT_ONCE = 8
"""Positions that are carried at the same time: some ten float32 tensors of this many rows of |T|."""


@dataclass(frozen=True)
class Token:
    """A token of the base model's, as the source reads it.

    Attributes:
        id: Of the base's vocabulary.
        piece: What the text grows by.
    """

    id: int
    piece: Piece


@dataclass(frozen=True)
class Asked:
    """A cover of a text, as a node of its row's tree.

    Attributes:
        node: Where the cover's tokens end.
        pending: The bytes that the next token has to begin with.
        steps: The (parent, token) pairs from the node that all covers of the text share.
    """

    node: int
    pending: bytes
    steps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Position:
    """A place in a text after which the source is heard.

    Attributes:
        row: Which text.
        last: The base's last token before it, -1 before any.
        asked: The covers; none where the source has no say.
    """

    row: int
    last: int
    asked: tuple[Asked, ...]


@dataclass
class _Text:
    """One text of the batch.

    Attributes:
        reader: The source's.
        beginning: What stands for the base's prompt where each model has its own.
        tokens: The base's.
        head: The node of the last settled token.
        heads: How many are settled.
        latest: The position after the last token that was text; None before anyone has asked.
    """

    reader: Reader
    beginning: tuple[Piece, ...]
    tokens: list[Token]
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

    def __init__(self, source: ValueSource, models: set[str], healer: Healer, policy: Policy, batch: int) -> None:
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
        self.forest = TokenForest({name: source.models[name] for name in sorted(models)}, batch)
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
        text = _Text(Reader(self.source.vocabulary), beginning, [])
        for piece in beginning:
            text.reader.push(piece)
        return text

    def read_on(self, row: int, tokens: Sequence[Token]) -> None:
        """Reads on without being asked."""
        text = self._texts[row]
        text.tokens += tokens
        if any(token.piece != b"" for token in tokens):
            text.latest = None
        for token in tokens:
            text.reader.push(token.piece)

    def read(self, tokens: Sequence[Sequence[Token]], keep: int) -> Said:
        """Reads on, and hears the source after each of the last `keep` tokens.

        Args:
            tokens: For each row the same number n of tokens.
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
        wanted: list[list[int]] = [[] for _ in self._texts]
        for position in positions:
            wanted[position.row] += _nodes(position)
        self.forest.read(wanted)
        for row, text in enumerate(self._texts):
            if text.head != ROOT:
                self.forest.settle(row, text.head)
        return Said(self, positions)

    def _position(self, row: int) -> Position:
        text = self._texts[row]
        if text.latest is None:
            last = next((token.id for token in reversed(text.tokens) if token.piece != b""), -1)
            text.latest = Position(row, last, self._ask(row, last))
        return text.latest

    def _ask(self, row: int, last: int) -> tuple[Asked, ...]:
        """The covers of a row's text that are worth asking after, put into its tree."""
        text, tree = self._texts[row], self.forest.trees[row]
        covers = text.reader.covers(all_ways=self.policy is not Policy.RETOKENIZE)
        text.head = tree.add(text.reader.settled[text.heads :], text.head)
        text.heads = len(text.reader.settled)
        if self.policy is Policy.SKIP and text.reader.half:
            return ()
        asked = []
        for cover in covers:
            if cover.pending and (
                self.policy is Policy.RETOKENIZE or last < 0 or not self.healer.may_run_on(cover.pending, last)
            ):
                continue
            node = tree.add(cover.ids, text.head)
            if node == ROOT:  # no token yet, and no begin token: nothing that a model could be asked after
                continue
            asked.append(Asked(node, cover.pending))
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


class Said:
    """What a source says at some positions.

    Attributes:
        positions: The positions, row by row.
    """

    def __init__(self, reading: Reading, positions: list[Position]) -> None:
        """Of positions that the reading has read."""
        self.positions = positions
        self._reading = reading
        # What was heard last and what of it: look-ahead asks for the same scores again.
        self._last: tuple[tuple[slice, tuple[str, ...]], Scores, Tensor] | None = None
        self._behind: dict[int, dict[int, list[tuple[int, int]]]] = {}  # position -> w -> (cover, node) each

    @property
    def parts(self) -> list[slice]:
        """The positions by a few at a time, to bound the memory of carrying and combining what is said there."""
        count = len(self.positions)
        return [slice(i, min(i + _AT_ONCE, count)) for i in range(0, count, _AT_ONCE)]

    def at(self, chosen: Sequence[int]) -> Said:
        """The same at some of the positions only."""
        return Said(self._reading, [self.positions[i] for i in chosen])

    def scores(
        self, part: slice, wanted: Sequence[str], look_ahead: LookAhead | None, device: torch.device
    ) -> tuple[Scores, Tensor]:
        """The scores at some of the positions.

        Args:
            part: Which positions, n.
            wanted: Names of the fields of `Scores` that are needed.
            look_ahead: Knows the longer target tokens of the source's, for what `look_behind` has asked.
            device: Where the results are wanted.

        Returns:
            Scores (n, |S|), and where the source has a say: float32 (n, 1), 1 or 0.
        """
        asked = (part, tuple(wanted))
        if self._last is None or self._last[0] != asked:
            scores, speaks = self._heard(part, wanted)
            there = {name: getattr(scores, name).to(device) for name in wanted}
            self._last = asked, Scores(**there), speaks.to(device)
        _, scores, speaks = self._last
        ahead = None if look_ahead is None else self._ahead(part, wanted, look_ahead, device)
        return replace(scores, ahead=ahead), speaks

    def _heard(self, part: slice, wanted: Sequence[str]) -> tuple[Scores, Tensor]:
        """What `scores` gives, on the source's device and without looking ahead."""
        positions, forest, source = self.positions[part], self._reading.forest, self._reading.source
        speaking = [position for position in positions if position.asked]
        device = next(source.parameters()).device
        speaks = torch.tensor([[float(bool(position.asked))] for position in positions], device=device)
        if not speaking:
            silence = torch.zeros(len(positions), source.vocabulary.size, device=device)
            silent: dict[str, Any] = dict.fromkeys(wanted, silence)
            return Scores(**silent), speaks
        # A position without a say repeats another's scores, to keep the shape.
        first = [position if position.asked else speaking[0] for position in positions]
        said = source.scores(forest.logits([(position.row, position.asked[0].node) for position in first]))
        scores = Scores(**{name: getattr(said, name) for name in wanted})
        for i, position in enumerate(positions):
            if len(position.asked) > 1 or any(one.pending for one in position.asked):
                across = self._heal(position, i, scores)
                if self._reading.policy is Policy.SKIP:
                    speaks[i] = (across <= _RUNS_ON).to(speaks.dtype)
        return scores, speaks

    def _heal(self, position: Position, i: int, scores: Scores) -> Tensor:
        """Replaces row i of the scores by what all covers say; the share that runs across the boundary."""
        healer, policy = self._reading.healer, self._reading.policy
        names = ("untuned", "tuned") if scores.delta is not None else tuple(_donors(scores))
        healed, across = {}, torch.zeros(())
        for name, log_p in self._said_by(position, names).items():
            weights, ends = _weighed(position, log_p)
            p, across, _ = healer.heal([one.pending for one in position.asked], weights, ends, position.last)
            healed[name] = p.clamp_min_(torch.finfo(p.dtype).tiny).log_()
        if policy is not Policy.SKIP:
            if scores.delta is not None:
                scores.delta[i] = healed["tuned"] - healed["untuned"]
            for name in _donors(scores):
                getattr(scores, name)[i] = healed[name]
        return across

    def _said_by(self, position: Position, names: Sequence[str]) -> dict[str, dict[int, Tensor]]:
        """Natural log-probabilities after each node of a position, by donor."""
        nodes = _nodes(position)
        said = self._reading.source.scores(self._reading.forest.logits([(position.row, node) for node in nodes]))
        return {name: dict(zip(nodes, getattr(said, name).log_softmax(-1), strict=True)) for name in names}

    def look_behind(self, chosen: Sequence[Sequence[int]]) -> None:
        """Has the source read on by some of its tokens, for each position by others, each for itself."""
        forest, canonical = self._reading.forest, self._reading.source.vocabulary.canonical
        wanted: list[list[int]] = [[] for _ in forest.trees]
        for i, (position, tokens) in enumerate(zip(self.positions, chosen, strict=True)):
            wanted[position.row] += _nodes(position)
            for w in tokens:
                data = self._reading.source.vocabulary.token_bytes[w] or b""
                nodes = []
                for cover, one in enumerate(position.asked):
                    token = canonical.get(one.pending + data) if one.pending else w
                    if token is not None:
                        nodes.append((cover, forest.trees[position.row].add([token], one.node)))
                if nodes:
                    self._behind.setdefault(i, {})[w] = nodes
                    wanted[position.row] += [node for _, node in nodes]
        if self._behind:
            forest.read(wanted)

    def _ahead(self, part: slice, wanted: Sequence[str], look_ahead: LookAhead, device: torch.device) -> Ahead | None:
        """What the source says after the tokens that were looked behind, at some positions."""
        names = [name for name in ("tuned", "untuned") if name in wanted]
        start = part.indices(len(self.positions))[0]
        looked = [
            (i, w, nodes)
            for i in range(*part.indices(len(self.positions)))
            for w, nodes in self._behind.get(i, {}).items()
        ]
        if not looked:
            return None
        entries = [(self.positions[i].row, node) for i, _, nodes in looked for _, node in nodes]
        said = self._reading.source.scores(self._reading.forest.logits(entries))
        after = torch.stack([getattr(said, name).softmax(-1) for name in names])
        if len(entries) > len(looked):
            after = self._mixed(looked, names, after)
        return look_ahead.ahead([i - start for i, _, _ in looked], [w for _, w, _ in looked], after.to(device))

    def _mixed(
        self, looked: list[tuple[int, int, list[tuple[int, int]]]], names: Sequence[str], after: Tensor
    ) -> Tensor:
        """Of several covers with the same token behind them, the mean by how probable each is with it."""
        mixed, entry = after.new_empty(len(names), len(looked), after.shape[-1]), 0
        for k, (i, _, nodes) in enumerate(looked):
            several = after[:, entry : entry + len(nodes)]
            entry += len(nodes)
            if len(nodes) == 1:
                mixed[:, k] = several[:, 0]
                continue
            position = self.positions[i]
            tree = self._reading.forest.trees[position.row]
            for d, log_p in enumerate(self._said_by(position, names).values()):
                weights, ends = _weighed(position, log_p)
                shares = torch.stack([weights[c] + ends[c, tree.tokens[node]] for c, node in nodes]).softmax(0)
                mixed[d, k] = shares @ several[d]
        return mixed


def _donors(scores: Scores) -> list[str]:
    return [name for name in ("untuned", "tuned") if getattr(scores, name) is not None]


def _weighed(position: Position, log_p: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Log P of each cover behind what all share, (k,), and the log-probabilities after each, (k, |S|)."""
    ends = torch.stack([log_p[one.node] for one in position.asked])
    weights = [sum((log_p[p][token] for p, token in one.steps), ends.new_zeros(())) for one in position.asked]
    return torch.stack(weights), ends


def _nodes(position: Position) -> list[int]:
    """The nodes after which a position needs to hear the models: its covers' ends, and those that weigh them."""
    steps = [parent for one in position.asked for parent, _ in one.steps]
    return list(dict.fromkeys([*(one.node for one in position.asked), *steps]))


def _below(parents: Sequence[int], node: int, head: int) -> list[int]:
    """The nodes on the way from a settled node down to one behind it, without the settled one."""
    path = []
    while node != head:
        path.append(node)
        node = parents[node]
    return path[::-1]
