"""A source's predictions at some positions of texts, in two stages.

    first    = predictor.predict(positions, ...)      logits after each cover --TokenHealer--> one distribution
    second   = predictor.extend(positions, selected)  reads behind the source tokens that lookahead selects
    resolved = predictor.resolve(first, second, ...)  scores, and how lookahead splits the mass of those tokens

`predictions_at` runs the stages, a few positions at a time. Each stage returns a new object and changes none.

The weight of a token before which the target may or may not have ended its last token (`HealedDistribution`) is decided
by the source's prediction behind it: with p(v | w) and the boundary weight of w v, the weight of w is the sum over v of
p(v | w) weight(w v).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.value_source import Scores, ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.positions import Position
from vocabridge.projection.projection import Projection
from vocabridge.projection.token_healing import TokenHealer

_CACHE_BUDGET = 1 << 26
"""Cache budget, in floats, for first-stage predictions until lookahead has read; what is beyond it is recomputed."""

_POSITIONS_AT_ONCE = 8
"""Positions projected at the same time, which takes some ten float32 tensors of this many rows of |T|."""

LookaheadNodes: TypeAlias = Mapping[int, Sequence[tuple[int, int]]]
"""At one position: for each token that was read behind, the (cover, node) pairs behind which it stands."""

_Read: TypeAlias = tuple[int, int, Sequence[tuple[int, int]]]
"""A token that was read behind: its position in the part, its id, and its (cover, node) pairs."""


@dataclass(frozen=True)
class SourcePredictions:
    """The first stage: predictions at n positions, without lookahead.

    Attributes:
        positions: The positions.
        scores: The scores that were required, (n, |S|).
        active: Where the source makes a prediction, float32 (n, 1), 1 or 0.
        boundary_weights: By model, for each position that was healed, see `HealedDistribution`.
        uncertain_tokens: For each position, the tokens that lookahead has to read behind to know their weight.
    """

    positions: Sequence[Position]
    scores: Scores
    active: Tensor
    boundary_weights: Mapping[str, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)
    uncertain_tokens: Mapping[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedPredictions:
    """Predictions at n positions, as a projection takes them.

    Attributes:
        scores: The scores that were required, (n, |S|).
        active: Where the source makes a prediction, float32 (n, 1), 1 or 0.
        split: How the mass of some source tokens is split; None without lookahead.
        base_on_source_vocab: The base's distribution on the source vocabulary, (n, |S|), where lookahead has computed
            it.
    """

    scores: Scores
    active: Tensor
    split: LookaheadSplit | None = None
    base_on_source_vocab: Tensor | None = None


class SourcePredictor:
    """Predicts at positions whose nodes a `TreeDecoder` has read.

    Attributes:
        source: The value source.
        decoder: The source's tokens, and its models' predictions after some of them.
        healer: From the source's vocabulary to the target's.
        policy: How predictions are read where tokens do not end together.
    """

    def __init__(self, source: ValueSource, decoder: TreeDecoder, healer: TokenHealer, policy: BoundaryPolicy) -> None:
        """Hold the parts."""
        self.source = source
        self.decoder = decoder
        self.healer = healer
        self.policy = policy

    def predict(
        self, positions: Sequence[Position], required_scores: Sequence[str], device: torch.device
    ) -> SourcePredictions:
        """Predict at n positions, without lookahead.

        Args:
            positions: The positions.
            required_scores: Names of the fields of `Scores` that are needed.
            device: Where the results are needed.
        """
        predicting = [position for position in positions if position.covers]
        active = torch.tensor([[float(bool(position.covers))] for position in positions], device=device)
        if not predicting:
            zeros = torch.zeros(len(positions), self.source.vocabulary.size, device=device)
            no_scores: dict[str, Any] = dict.fromkeys(required_scores, zeros)
            return SourcePredictions(positions, Scores(**no_scores), active)
        # A position without a prediction repeats another's scores, to keep the shape.
        first = [position if position.covers else predicting[0] for position in positions]
        as_is = self.source.scores(self.decoder.logits([(position.row, position.covers[0].node) for position in first]))
        scores = {name: getattr(as_is, name) for name in required_scores}
        predictions = SourcePredictions(positions, Scores(), active)
        if healing := [i for i, position in enumerate(positions) if position.needs_healing]:
            names = [n for n in ("untuned", "tuned") if n in required_scores or "delta" in required_scores]
            predictions, healed, crossing_mass = self._heal(predictions, healing, names)
            if self.policy is BoundaryPolicy.SKIP:
                active[healing, 0] = (crossing_mass <= self.healer.config.max_crossing_mass).to(active)
            else:
                if "delta" in required_scores:
                    healed["delta"] = healed["tuned"] - healed["untuned"]
                for name, logits in scores.items():
                    logits[healing] = healed[name]
        return replace(predictions, scores=Scores(**{name: logits.to(device) for name, logits in scores.items()}))

    def extend(self, positions: Sequence[Position], selected: Sequence[Sequence[int]]) -> list[LookaheadNodes]:
        """Read behind some of the source's tokens, other ones at each position, each by itself."""
        decoder, vocabulary = self.decoder, self.source.vocabulary
        wanted: list[list[int]] = [[] for _ in decoder.trees]
        behind: list[dict[int, list[tuple[int, int]]]] = []
        for position, tokens in zip(positions, selected, strict=True):
            here: dict[int, list[tuple[int, int]]] = {}
            wanted[position.row] += position.nodes
            for w in tokens:
                data = vocabulary.token_bytes[w] or b""
                nodes = []
                for number, cover in enumerate(position.covers):
                    token = vocabulary.canonical.get(cover.pending + data) if cover.pending else w
                    if token is not None:
                        nodes.append((number, decoder.trees[position.row].add([token], cover.node)))
                if nodes:
                    here[w] = nodes
                    wanted[position.row] += [node for _, node in nodes]
            behind.append(here)
        if any(behind):
            decoder.read(wanted)
        return list(behind)

    def resolve(
        self, first: SourcePredictions, behind: Sequence[LookaheadNodes], lookahead: Lookahead
    ) -> tuple[Scores, LookaheadSplit | None]:
        """Apply what the source predicts behind some of its tokens.

        Args:
            first: The first stage at n positions.
            behind: The second stage there.
            lookahead: Finds the target tokens that the source's tokens may become.

        Returns:
            The scores with decided boundary weights, and how the mass of the tokens is split.
        """
        read = [(i, w, nodes) for i, here in enumerate(behind) for w, nodes in here.items()]
        if not read:
            return first.scores, None
        names = [name for name in ("tuned", "untuned") if getattr(first.scores, name) is not None]
        p_behind = self._p_behind(first.positions, read, names)
        changes = self._decide_boundaries(first, read, names, p_behind)
        scores = first.scores
        for name in {name for name, _, _, _ in changes}:
            scores = replace(scores, **{name: getattr(scores, name).clone()})
        for name, i, w, change in changes:
            getattr(scores, name)[i, w] += change.to(first.active.device)
        split = lookahead.split([i for i, _, _ in read], [w for _, w, _ in read], p_behind.to(first.active.device))
        return scores, split

    def _heal(
        self, predictions: SourcePredictions, places: Sequence[int], names: Sequence[str]
    ) -> tuple[SourcePredictions, dict[str, Tensor], Tensor]:
        """Marginalize over the covers at n places; logits (n, |S|) by model, and the last model's crossing mass."""
        positions = [predictions.positions[i] for i in places]
        healed: dict[str, Tensor] = {}
        boundary_weights, uncertain, crossing_mass = {}, {}, torch.zeros(())
        for name, log_p in self._log_p_after_covers(positions, names).items():
            log_weights = torch.cat([_log_weights(position, name, log_p) for position in positions])
            pendings = [[cover.pending for cover in position.covers] for position in positions]
            can_end = [[cover.can_end for cover in position.covers] for position in positions]
            text_ends = [position.text_end for position in positions]
            found = self.healer.marginalize(pendings, can_end, log_weights, log_p, text_ends)
            crossing_mass = found.crossing_mass
            boundary_weights[name] = dict(zip(places, found.boundary_weights, strict=True))
            if self.policy is BoundaryPolicy.LOOKAHEAD:
                uncertain = dict(zip(places, self.healer.uncertain_tokens(found), strict=True))
            healed[name] = found.p.clamp_min_(torch.finfo(found.p.dtype).tiny).log_()
        predictions = replace(predictions, boundary_weights=boundary_weights, uncertain_tokens=uncertain)
        return predictions, healed, crossing_mass

    def _log_p_after_covers(self, positions: Sequence[Position], names: Sequence[str]) -> dict[str, Tensor]:
        """Return log-probabilities after each of the k covers of some positions, (k, |S|), by model."""
        ends = [(position.row, cover.node) for position in positions for cover in position.covers]
        scores = self.source.scores(self.decoder.logits(ends))
        return {name: getattr(scores, name).log_softmax(-1) for name in names}

    def _p_behind(self, positions: Sequence[Position], read: Sequence[_Read], names: Sequence[str]) -> Tensor:
        """Return the m models' distributions behind K tokens, (m, K, |S|)."""
        entries = [(positions[i].row, node) for i, _, nodes in read for _, node in nodes]
        scores = self.source.scores(self.decoder.logits(entries))
        p = torch.stack([getattr(scores, name).softmax(-1) for name in names])
        return p if len(entries) == len(read) else self._average_covers(positions, read, names, p)

    def _average_covers(
        self, positions: Sequence[Position], read: Sequence[_Read], names: Sequence[str], p: Tensor
    ) -> Tensor:
        """Average over the covers behind which a token stands, weighted by how probable each is together with it."""
        places = list(dict.fromkeys(i for i, _, nodes in read if len(nodes) > 1))
        sizes = [len(positions[i].covers) for i in places]
        ends = {
            name: dict(zip(places, log_p.split(sizes), strict=True))
            for name, log_p in self._log_p_after_covers([positions[i] for i in places], names).items()
        }
        averaged, entry = p.new_empty(len(names), len(read), p.shape[-1]), 0
        for k, (i, _, nodes) in enumerate(read):
            by_cover = p[:, entry : entry + len(nodes)]
            entry += len(nodes)
            if len(nodes) == 1:
                averaged[:, k] = by_cover[:, 0]
                continue
            tree = self.decoder.trees[positions[i].row]
            for m, name in enumerate(names):
                log_p = ends[name][i]
                weights = _log_weights(positions[i], name, log_p)
                joint = torch.stack([weights[c] + log_p[c, tree.tokens[node]] for c, node in nodes])
                averaged[m, k] = joint.softmax(0) @ by_cover[m]
        return averaged

    def _decide_boundaries(
        self, first: SourcePredictions, read: Sequence[_Read], names: Sequence[str], p_behind: Tensor
    ) -> list[tuple[str, int, int, Tensor]]:
        """Decide whether the target has a boundary before an uncertain token by the prediction behind it.

        Args:
            first: The first stage.
            read: The tokens that were read behind.
            names: Of the models.
            p_behind: Their distributions there, (m, K, |S|); multiplied by the boundary weights, in place.

        Returns:
            For each model and uncertain token (position, token): the change of its logit.
        """
        changes = []
        for k, (i, w, _) in enumerate(read):
            for m, name in enumerate(names):
                weight = first.boundary_weights.get(name, {}).get(i, {}).get(w)
                if weight is None:
                    continue
                p = p_behind[m, k]
                followers = p.topk(min(self.healer.config.uncertain_followers, p.shape[-1])).indices
                weights = torch.full_like(p, weight)
                found = self.healer.weights_behind(first.positions[i].text_end, w, followers.tolist())
                weights[followers] = torch.tensor(found, device=weights.device)
                p *= weights
                total = p.sum()
                p /= total
                changes.append((name, i, w, (total / weight).log()))
        return changes


def parts_of(count: int) -> list[slice]:
    """Return slices of `count` positions that bound the memory of projecting and combining the predictions there."""
    return [slice(i, min(i + _POSITIONS_AT_ONCE, count)) for i in range(0, count, _POSITIONS_AT_ONCE)]


def predictions_at(
    predictor: SourcePredictor,
    positions: Sequence[Position],
    required_scores: Sequence[str],
    projection: Projection,
    lookahead: Lookahead | None = None,
    p_base: Callable[[slice, SourcePredictions], Tensor] | None = None,
) -> Iterator[ResolvedPredictions]:
    """Run both stages: the one way from positions to predictions.

    Args:
        predictor: Predicts.
        positions: All positions; they are worked on in the slices of `parts_of`.
        required_scores: Names of the fields of `Scores` that are needed, with lookahead a model's distribution among
            them.
        projection: From the source's vocabulary to the target's.
        lookahead: None to do without; used under policy `lookahead` only.
        p_base: Returns the base's probabilities (n, |T|) at a slice, given the first stage there; with lookahead.

    Yields:
        The predictions at each slice of `parts_of`, in order.
    """
    device, parts = projection.mapped_source.device, parts_of(len(positions))
    if lookahead is None or predictor.policy is not BoundaryPolicy.LOOKAHEAD:
        for part in parts:
            first = predictor.predict(positions[part], required_scores, device)
            yield ResolvedPredictions(first.scores, first.active)
        return
    assert p_base is not None
    cached: dict[int, tuple[SourcePredictions, Tensor]] = {}
    selected: list[list[int]] = []

    def first_stage(part: slice) -> tuple[SourcePredictions, Tensor, Tensor]:
        first = predictor.predict(positions[part], required_scores, device)
        p = p_base(part, first)
        return first, projection.base_on_source_vocab(p), p

    for part in parts:
        first, on_source, p = first_stage(part)
        likely = lookahead.select(first.scores.distributions[0].softmax(-1), on_source, p)
        selected += [
            list(dict.fromkeys([*first.uncertain_tokens.get(i, ()), *tokens])) for i, tokens in enumerate(likely)
        ]
        if part.stop * predictor.source.vocabulary.size <= _CACHE_BUDGET:
            cached[part.start] = first, on_source
    behind = predictor.extend(positions, selected)
    for part in parts:
        first, on_source = cached.pop(part.start) if part.start in cached else first_stage(part)[:2]
        scores, split = predictor.resolve(first, behind[part], lookahead)
        yield ResolvedPredictions(scores, first.active, split, on_source)


def _log_weights(position: Position, name: str, like: Tensor) -> Tensor:
    """Return log P of each of k covers behind what all share, (k,), on the device of the model's logits."""
    return like.new_tensor([cover.log_p.get(name, 0.0) for cover in position.covers])
