"""A source's predictions at positions in texts, in two stages.

    first    = predictor.predict(positions, ...)      logits after each cover --TokenHealer--> one distribution
    nodes    = predictor.extend(positions, selected)  reads the source tokens that lookahead selects
    resolved = predictor.resolve(first, nodes, ...)   scores, and how lookahead splits the mass of those tokens

`predictions_at` runs both stages, a few positions at a time. Each stage returns a new object and changes none.

The second stage also decides uncertain boundary weights (`HealedDistribution`). The boundary weight of a source token w
becomes the sum over v of p(v | w) weight(w v), where p(v | w) is the source's prediction after w and weight(w v) the
boundary weight of both tokens together.
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
"""Cache budget, in floats, for first-stage predictions until the second stage. Anything beyond it is recomputed."""

_POSITIONS_AT_ONCE = 8
"""The number of positions projected at the same time, which takes about 10 float32 tensors (positions, |T|)."""

LookaheadNodes: TypeAlias = Mapping[int, Sequence[tuple[int, int]]]
"""At one position, by source token that lookahead has read: a (cover index, node) pair for each cover it follows."""

_LookaheadToken: TypeAlias = tuple[int, int, Sequence[tuple[int, int]]]
"""A source token that lookahead has read: the index of its position, its id, and its (cover index, node) pairs."""


@dataclass(frozen=True)
class SourcePredictions:
    """The first stage: predictions at n positions, without lookahead.

    Attributes:
        positions: The positions.
        scores: The required scores, (n, |S|).
        active: 1 where the source makes a prediction, else 0, float32 (n, 1).
        boundary_weights: By model and index of a healed position, the boundary weights of `HealedDistribution`.
        uncertain_tokens: By index of a position, the tokens that lookahead has to read to decide their boundary weight.
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
        scores: The required scores, (n, |S|).
        active: 1 where the source makes a prediction, else 0, float32 (n, 1).
        split: How the mass of some source tokens is split; None without lookahead.
        base_on_source_vocab: The base's distribution on the source vocabulary, (n, |S|); None without lookahead.
    """

    scores: Scores
    active: Tensor
    split: LookaheadSplit | None = None
    base_on_source_vocab: Tensor | None = None


class SourcePredictor:
    """Predicts at positions whose nodes a `TreeDecoder` has read.

    Attributes:
        source: The value source.
        decoder: The texts as token trees, and the models' predictions after the nodes that have been read.
        healer: The token healer for the source's and the target's vocabulary.
        policy: The boundary policy.
    """

    def __init__(self, source: ValueSource, decoder: TreeDecoder, healer: TokenHealer, policy: BoundaryPolicy) -> None:
        """Store the parts."""
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
            required_scores: Names of the required fields of `Scores`.
            device: The device of the results.
        """
        predicting = [position for position in positions if position.covers]
        active = torch.tensor([[float(bool(position.covers))] for position in positions], device=device)
        if not predicting:
            zeros = torch.zeros(len(positions), self.source.vocabulary.size, device=device)
            no_scores: dict[str, Any] = dict.fromkeys(required_scores, zeros)
            return SourcePredictions(positions, Scores(**no_scores), active)
        # A position without a prediction repeats another one's scores, to keep the shape.
        first = [position if position.covers else predicting[0] for position in positions]
        as_is = self.source.scores(self.decoder.logits([(position.row, position.covers[0].node) for position in first]))
        scores = {name: getattr(as_is, name) for name in required_scores}
        predictions = SourcePredictions(positions, Scores(), active)
        if healing := [i for i, position in enumerate(positions) if position.needs_healing]:
            names = [name for name in ("untuned", "tuned") if {name, "delta"} & set(required_scores)]
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
        """Read some of the source's tokens after each position, each by itself.

        Args:
            positions: The positions.
            selected: For each position, the ids of the tokens.

        Returns:
            For each position, the nodes of those tokens that can follow one of its covers.
        """
        decoder, vocabulary = self.decoder, self.source.vocabulary
        required_nodes: list[list[int]] = [[] for _ in decoder.trees]
        lookahead_nodes: list[LookaheadNodes] = []
        for position, tokens in zip(positions, selected, strict=True):
            nodes_by_token: dict[int, list[tuple[int, int]]] = {}
            required_nodes[position.row] += position.nodes
            for w in tokens:
                data = vocabulary.token_bytes[w] or b""
                nodes = []
                for number, cover in enumerate(position.covers):
                    token = vocabulary.canonical.get(cover.pending + data) if cover.pending else w
                    if token is not None:
                        nodes.append((number, decoder.trees[position.row].add([token], cover.node)))
                if nodes:
                    nodes_by_token[w] = nodes
                    required_nodes[position.row] += [node for _, node in nodes]
            lookahead_nodes.append(nodes_by_token)
        if any(lookahead_nodes):
            decoder.read(required_nodes)
        return lookahead_nodes

    def resolve(
        self, first: SourcePredictions, lookahead_nodes: Sequence[LookaheadNodes], lookahead: Lookahead
    ) -> tuple[Scores, LookaheadSplit | None]:
        """Apply the source's predictions after the tokens that lookahead has read.

        Args:
            first: The predictions of the first stage at n positions.
            lookahead_nodes: The result of `extend` for these positions.
            lookahead: Finds the target tokens that a source token may become.

        Returns:
            The scores with decided boundary weights, and how the mass of the tokens is split; None without any.
        """
        tokens = [(i, w, nodes) for i, by_token in enumerate(lookahead_nodes) for w, nodes in by_token.items()]
        if not tokens:
            return first.scores, None
        names = [name for name in ("tuned", "untuned") if getattr(first.scores, name) is not None]
        p_behind = self._p_behind(first.positions, tokens, names)
        changes = self._decide_boundaries(first, tokens, names, p_behind)
        scores = first.scores
        for name in {name for name, _, _, _ in changes}:
            scores = replace(scores, **{name: getattr(scores, name).clone()})
        for name, i, w, change in changes:
            getattr(scores, name)[i, w] += change.to(first.active.device)
        split = lookahead.split([i for i, _, _ in tokens], [w for _, w, _ in tokens], p_behind.to(first.active.device))
        return scores, split

    def _heal(
        self, predictions: SourcePredictions, indices: Sequence[int], names: Sequence[str]
    ) -> tuple[SourcePredictions, dict[str, Tensor], Tensor]:
        """Marginalize over the covers at the n positions with these indices.

        Returns:
            The predictions with the boundary weights; by model, the healed log-probabilities (n, |S|); and the crossing
            mass of the last model, (n,).
        """
        positions = [predictions.positions[i] for i in indices]
        healed: dict[str, Tensor] = {}
        boundary_weights, uncertain, crossing_mass = {}, {}, torch.zeros(())
        for name, log_p in self._log_p_after_covers(positions, names).items():
            log_weights = torch.cat([_log_weights(position, name, log_p) for position in positions])
            pendings = [[cover.pending for cover in position.covers] for position in positions]
            can_end = [[cover.can_end for cover in position.covers] for position in positions]
            text_ends = [position.text_end for position in positions]
            distribution = self.healer.marginalize(pendings, can_end, log_weights, log_p, text_ends)
            crossing_mass = distribution.crossing_mass
            boundary_weights[name] = dict(zip(indices, distribution.boundary_weights, strict=True))
            if self.policy is BoundaryPolicy.LOOKAHEAD:
                uncertain = dict(zip(indices, self.healer.uncertain_tokens(distribution), strict=True))
            healed[name] = distribution.p.clamp_min_(torch.finfo(distribution.p.dtype).tiny).log_()
        predictions = replace(predictions, boundary_weights=boundary_weights, uncertain_tokens=uncertain)
        return predictions, healed, crossing_mass

    def _log_p_after_covers(self, positions: Sequence[Position], names: Sequence[str]) -> dict[str, Tensor]:
        """Return the log-probabilities after each of the k covers of some positions, (k, |S|), by model."""
        ends = [(position.row, cover.node) for position in positions for cover in position.covers]
        scores = self.source.scores(self.decoder.logits(ends))
        return {name: getattr(scores, name).log_softmax(-1) for name in names}

    def _p_behind(
        self, positions: Sequence[Position], tokens: Sequence[_LookaheadToken], names: Sequence[str]
    ) -> Tensor:
        """Return the m models' distributions after K tokens, (m, K, |S|)."""
        entries = [(positions[i].row, node) for i, _, nodes in tokens for _, node in nodes]
        scores = self.source.scores(self.decoder.logits(entries))
        p = torch.stack([getattr(scores, name).softmax(-1) for name in names])
        return p if len(entries) == len(tokens) else self._average_covers(positions, tokens, names, p)

    def _average_covers(
        self, positions: Sequence[Position], tokens: Sequence[_LookaheadToken], names: Sequence[str], p: Tensor
    ) -> Tensor:
        """Average each token's distributions over the covers it follows, weighted by P(cover) P(token | cover)."""
        indices = list(dict.fromkeys(i for i, _, nodes in tokens if len(nodes) > 1))
        sizes = [len(positions[i].covers) for i in indices]
        log_p_after_covers = {
            name: dict(zip(indices, log_p.split(sizes), strict=True))
            for name, log_p in self._log_p_after_covers([positions[i] for i in indices], names).items()
        }
        averaged, entry = p.new_empty(len(names), len(tokens), p.shape[-1]), 0
        for k, (i, _, nodes) in enumerate(tokens):
            by_cover = p[:, entry : entry + len(nodes)]
            entry += len(nodes)
            if len(nodes) == 1:
                averaged[:, k] = by_cover[:, 0]
                continue
            tree = self.decoder.trees[positions[i].row]
            for m, name in enumerate(names):
                log_p = log_p_after_covers[name][i]
                weights = _log_weights(positions[i], name, log_p)
                joint = torch.stack([weights[c] + log_p[c, tree.tokens[node]] for c, node in nodes])
                averaged[m, k] = joint.softmax(0) @ by_cover[m]
        return averaged

    def _decide_boundaries(
        self, first: SourcePredictions, tokens: Sequence[_LookaheadToken], names: Sequence[str], p_behind: Tensor
    ) -> list[tuple[str, int, int, Tensor]]:
        """Replace the uncertain boundary weights of tokens by means over the tokens that may follow them.

        Args:
            first: The predictions of the first stage.
            tokens: The K tokens that lookahead has read.
            names: Names of the m models.
            p_behind: The models' distributions after the tokens, (m, K, |S|). After an uncertain token, they are
                multiplied by the boundary weights in place and scaled to sum 1.

        Returns:
            For each model and uncertain token: the model's name, the index of the position, the token's id and the
            change of its logit.
        """
        changes = []
        for k, (i, w, _) in enumerate(tokens):
            for m, name in enumerate(names):
                weight = first.boundary_weights.get(name, {}).get(i, {}).get(w)
                if weight is None:
                    continue
                p = p_behind[m, k]
                followers = p.topk(min(self.healer.config.uncertain_followers, p.shape[-1])).indices
                weights = torch.full_like(p, weight)
                judged = self.healer.weights_behind(first.positions[i].text_end, w, followers.tolist())
                weights[followers] = torch.tensor(judged, device=weights.device)
                p *= weights
                total = p.sum()
                p /= total
                changes.append((name, i, w, (total / weight).log()))
        return changes


def parts_of(count: int) -> list[slice]:
    """Return slices of `count` positions, so small that projecting and combining one slice takes little memory."""
    return [slice(i, min(i + _POSITIONS_AT_ONCE, count)) for i in range(0, count, _POSITIONS_AT_ONCE)]


def predictions_at(
    predictor: SourcePredictor,
    positions: Sequence[Position],
    required_scores: Sequence[str],
    projection: Projection,
    lookahead: Lookahead | None = None,
    p_base: Callable[[slice, SourcePredictions], Tensor] | None = None,
) -> Iterator[ResolvedPredictions]:
    """Run both stages; every caller gets its predictions from this function.

    Args:
        predictor: The predictor of the stream that returned the positions.
        positions: All positions. They are processed in the slices of `parts_of`.
        required_scores: Names of the required fields of `Scores`. Lookahead needs `tuned` or `untuned` among them.
        projection: The matrices from the source's vocabulary to the target's.
        lookahead: The lookahead, which is used under policy `lookahead` only; None for no lookahead.
        p_base: With lookahead, a function that returns the base's probabilities (n, |T|) at a slice, given the first
            stage there.

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
    lookahead_nodes = predictor.extend(positions, selected)
    for part in parts:
        first, on_source = cached.pop(part.start) if part.start in cached else first_stage(part)[:2]
        scores, split = predictor.resolve(first, lookahead_nodes[part], lookahead)
        yield ResolvedPredictions(scores, first.active, split, on_source)


def _log_weights(position: Position, name: str, like: Tensor) -> Tensor:
    """Return the log-probability of each cover's steps, (covers,), on the device and of the dtype of `like`."""
    return like.new_tensor([cover.log_p.get(name, 0.0) for cover in position.covers])
