"""What a source says at some positions of texts, and what it says behind some of its tokens there.

    logits after the covers' nodes --Healer--> one distribution a position
    logits after tokens read on    --LookAhead--> how a token's mass is split

A token before which the target may or may not have ended its last token (`HealedDistribution.counts`) is decided by what the source
says after it: with p(v | w) and how much w v counts, w has as much as sum over v of p(v | w) count(w v) says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.value_source import Scores, ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.token_healing import TokenHealer

_RUNS_ON = 0.5
"""Policy `skip` is silent where more than this share of the source's distribution would run across the boundary."""

_FOLLOWING = 16
"""So many of the tokens that may follow an unsure one are judged with it."""

_REMEMBERED = 1 << 26
"""Of what is heard and of images so many numbers are remembered until look-ahead has read on; others are made again."""

_AT_ONCE = 8
"""Positions that are carried at the same time: some ten float32 tensors of this many rows of |T|."""


Looked: TypeAlias = tuple[int, int, list[tuple[int, int]]]
"""A token that was looked behind: its position, its id, and the (cover, node) pairs behind which it was read."""


@dataclass(frozen=True)
class Asked:
    """A cover of a text, as a node of its row's tree.

    Attributes:
        node: Where the cover's tokens end.
        pending: The bytes that the next token has to begin with.
        steps: The (parent, token) pairs from the node that all covers of the text share.
        log_p: Log P of these steps by donor (`weighing`); nothing where a cover is the only one.
        may_end: Whether the cover is the encoding of the text as it stands. A tokenizer makes any other cover only of a
            longer text, so no control token may follow it.
    """

    node: int
    pending: bytes
    steps: tuple[tuple[int, int], ...] = ()
    log_p: Mapping[str, float] = field(default_factory=dict)
    may_end: bool = False


@dataclass(frozen=True)
class Position:
    """A place in a text after which the source is heard.

    Attributes:
        row: Which text.
        written: The end of the text that decides where the base's tokenizer cuts; empty before any.
        asked: The covers; none where the source has no say.
    """

    row: int
    written: bytes
    asked: tuple[Asked, ...]

    @property
    def nodes(self) -> list[int]:
        """Those after which the models have to be heard here: the covers' ends, and the nodes that weigh them."""
        steps = [parent for one in self.asked for parent, _ in one.steps]
        return list(dict.fromkeys([*(one.node for one in self.asked), *steps]))

    @property
    def heals(self) -> bool:
        """Whether the text's end need not be the end of a token."""
        return len(self.asked) > 1 or any(one.pending for one in self.asked)

    @property
    def trunk(self) -> list[int]:
        """Those of them that have to be read whichever covers are worth it: those of the text as it stands."""
        if len(self.asked) < 2:
            return self.nodes
        branches = [one.steps[0][0] for one in self.asked if one.steps]
        return list(dict.fromkeys([self.asked[0].node, *(parent for parent, _ in self.asked[0].steps), *branches]))


class Said:
    """What a source says at some positions.

    Attributes:
        positions: The positions, row by row.
    """

    def __init__(
        self,
        source: ValueSource,
        forest: TreeDecoder,
        healer: TokenHealer,
        policy: BoundaryPolicy,
        positions: list[Position],
    ) -> None:
        """Of positions whose nodes the forest has read."""
        self.positions = positions
        self._source = source
        self._forest = forest
        self._healer = healer
        self._policy = policy
        # Look-ahead asks for all, and then it is carried: by the positions, and the fields that were wanted.
        self._heard: dict[tuple[range, tuple[str, ...]], tuple[Scores, Tensor]] = {}
        self._images: dict[range, Tensor] = {}
        self._behind: dict[int, dict[int, list[tuple[int, int]]]] = {}  # position -> w -> (cover, node) each
        self._counts: dict[tuple[int, str], dict[int, float]] = {}  # position, donor -> `Healed.counts`
        self._unsure: dict[int, list[int]] = {}  # position -> of these tokens, those that the donor may well mean

    @property
    def parts(self) -> list[slice]:
        """The positions by a few at a time, to bound the memory of carrying and combining what is said there."""
        count = len(self.positions)
        return [slice(i, min(i + _AT_ONCE, count)) for i in range(0, count, _AT_ONCE)]

    def at(self, chosen: Sequence[int]) -> Said:
        """The same at some of the positions only."""
        return Said(self._source, self._forest, self._healer, self._policy, [self.positions[i] for i in chosen])

    def scores(
        self, part: slice, wanted: Sequence[str], lookahead: Lookahead | None, device: torch.device
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
        places = self._range(part)
        heard = self._heard.get((places, tuple(wanted))) or self._hear(places, wanted, device)
        if self._is_worth_keeping(places):
            self._heard[places, tuple(wanted)] = heard
        scores, speaks = replace(heard[0], image=self._images.get(places)), heard[1]
        looked = [(i, w, nodes) for i in places for w, nodes in self._behind.get(i, {}).items()]
        if lookahead is None or not looked:
            return scores, speaks
        names = [name for name in ("tuned", "untuned") if name in wanted]
        after = self._after(looked, names)
        changes = self._decided(looked, names, after)
        for name in {name for name, _, _, _ in changes}:
            scores = replace(scores, **{name: getattr(scores, name).clone()})
        for name, i, w, change in changes:
            getattr(scores, name)[i - places.start, w] += change.to(device)
        position, tokens = [i - places.start for i, _, _ in looked], [w for _, w, _ in looked]
        return replace(scores, ahead=lookahead.ahead(position, tokens, after.to(device))), speaks

    def remember(self, part: slice, image: Tensor) -> None:
        """Keeps the base's distributions on the source vocabulary, (n, |S|), for when the positions are carried."""
        if self._is_worth_keeping(places := self._range(part)):
            self._images[places] = image

    def unsure(self, part: slice) -> list[list[int]]:
        """The source's tokens at some positions that it means only if it means them to go on in some way."""
        return [self._unsure.get(i, []) for i in self._range(part)]

    def _range(self, part: slice) -> range:
        return range(*part.indices(len(self.positions)))

    def _is_worth_keeping(self, places: range) -> bool:
        room = places.stop * self._source.vocabulary.size <= _REMEMBERED
        return self._policy is BoundaryPolicy.LOOKAHEAD and room

    def _hear(self, places: range, wanted: Sequence[str], device: torch.device) -> tuple[Scores, Tensor]:
        """What `scores` gives, without looking ahead."""
        positions = [self.positions[at] for at in places]
        forest, source = self._forest, self._source
        speaking = [position for position in positions if position.asked]
        speaks = torch.tensor([[float(bool(position.asked))] for position in positions], device=device)
        if not speaking:
            silence = torch.zeros(len(positions), source.vocabulary.size, device=device)
            silent: dict[str, Any] = dict.fromkeys(wanted, silence)
            return Scores(**silent), speaks
        # A position without a say repeats another's scores, to keep the shape.
        first = [position if position.asked else speaking[0] for position in positions]
        said = source.scores(forest.logits([(position.row, position.asked[0].node) for position in first]))
        scores = {name: getattr(said, name) for name in wanted}
        if several := [i for i, position in enumerate(positions) if position.heals]:
            names = [name for name in ("untuned", "tuned") if name in wanted or "delta" in wanted]
            healed, across = self._all_covers([places[i] for i in several], names)
            if self._policy is BoundaryPolicy.SKIP:
                speaks[several, 0] = (across <= _RUNS_ON).to(speaks)
            else:
                if "delta" in wanted:
                    healed["delta"] = healed["tuned"] - healed["untuned"]
                for name, logits in scores.items():
                    logits[several] = healed[name]
        return Scores(**{name: logits.to(device) for name, logits in scores.items()}), speaks

    def _all_covers(self, places: Sequence[int], names: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """What all covers say at n positions, logits (n, |S|) by donor; the share of the last's that runs across."""
        positions = [self.positions[at] for at in places]
        healed, across = {}, torch.zeros(())
        for name, ends in self._ends(positions, names).items():
            weights = torch.cat([_weights(position, name, ends) for position in positions])
            pendings = [[one.pending for one in position.asked] for position in positions]
            may_end = [[one.may_end for one in position.asked] for position in positions]
            found = self._healer.heal(pendings, may_end, weights, ends, [position.written for position in positions])
            across = found.across
            self._counts |= {(at, name): counts for at, counts in zip(places, found.counts, strict=True)}
            if self._policy is BoundaryPolicy.LOOKAHEAD:
                self._unsure |= dict(zip(places, found.unsure(), strict=True))
            healed[name] = found.p.clamp_min_(torch.finfo(found.p.dtype).tiny).log_()
        return healed, across

    def _ends(self, positions: Sequence[Position], names: Sequence[str]) -> dict[str, Tensor]:
        """Log-probabilities after each of k covers of some positions, (k, |S|), by donor."""
        ends = [(position.row, one.node) for position in positions for one in position.asked]
        said = self._source.scores(self._forest.logits(ends))
        return {name: getattr(said, name).log_softmax(-1) for name in names}

    def look_behind(self, chosen: Sequence[Sequence[int]]) -> None:
        """Has the source read on by some of its tokens, for each position by others, each for itself."""
        forest, canonical = self._forest, self._source.vocabulary.canonical
        wanted: list[list[int]] = [[] for _ in forest.trees]
        for i, (position, tokens) in enumerate(zip(self.positions, chosen, strict=True)):
            wanted[position.row] += position.nodes
            for w in tokens:
                data = self._source.vocabulary.token_bytes[w] or b""
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

    def _after(self, looked: Sequence[Looked], names: Sequence[str]) -> Tensor:
        """What the donors say after the tokens that were looked behind: their probabilities, (m, K, |S|)."""
        entries = [(self.positions[i].row, node) for i, _, nodes in looked for _, node in nodes]
        said = self._source.scores(self._forest.logits(entries))
        after = torch.stack([getattr(said, name).softmax(-1) for name in names])
        return after if len(entries) == len(looked) else self._mixed(looked, names, after)

    def _decided(
        self, looked: Sequence[Looked], names: Sequence[str], after: Tensor
    ) -> list[tuple[str, int, int, Tensor]]:
        """Whether the target has a boundary before an unsure token is decided by what the source says after it.

        Args:
            looked: The tokens that were looked behind.
            names: Of the donors.
            after: What they say there, (m, K, |S|); weighed by how much it counts, in place.

        Returns:
            Of each donor and unsure token (position, token): the change of its logit.
        """
        changes = []
        for k, (i, w, _) in enumerate(looked):
            for d, name in enumerate(names):
                count = self._counts.get((i, name), {}).get(w)
                if count is None:
                    continue
                following = after[d, k].topk(min(_FOLLOWING, after.shape[-1])).indices
                counts = torch.full_like(after[d, k], count)
                found = self._healer.counts_behind(self.positions[i].written, w, following.tolist())
                counts[following] = torch.tensor(found, device=counts.device)
                after[d, k] *= counts
                total = after[d, k].sum()
                after[d, k] /= total
                changes.append((name, i, w, (total / count).log()))
        return changes

    def _mixed(self, looked: Sequence[Looked], names: Sequence[str], after: Tensor) -> Tensor:
        """Of several covers with the same token behind them, the mean by how probable each is with it."""
        places = list(dict.fromkeys(i for i, _, nodes in looked if len(nodes) > 1))
        positions = [self.positions[i] for i in places]
        sizes = [len(position.asked) for position in positions]
        ends = {
            name: dict(zip(places, found.split(sizes), strict=True))
            for name, found in self._ends(positions, names).items()
        }
        mixed, entry = after.new_empty(len(names), len(looked), after.shape[-1]), 0
        for k, (i, _, nodes) in enumerate(looked):
            several = after[:, entry : entry + len(nodes)]
            entry += len(nodes)
            if len(nodes) == 1:
                mixed[:, k] = several[:, 0]
                continue
            position = self.positions[i]
            tree = self._forest.trees[position.row]
            for d, name in enumerate(names):
                said = ends[name][i]
                weights = _weights(position, name, said)
                shares = torch.stack([weights[c] + said[c, tree.tokens[node]] for c, node in nodes]).softmax(0)
                mixed[d, k] = shares @ several[d]
        return mixed


def _weights(position: Position, name: str, ends: Tensor) -> Tensor:
    """Log P of each of k covers behind what all share, (k,), where the others of the donor are."""
    return ends.new_tensor([one.log_p.get(name, 0.0) for one in position.asked])
