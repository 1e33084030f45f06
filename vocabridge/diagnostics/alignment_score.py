"""The score of an alignment: how many more bits a source model needs for a text after projection.

    bits per byte = -1 / bytes * sum over target tokens y of log2 q_T(y),    q_T = C @ p_S

It is compared with the native cost, the bits of the same text in the source's own tokens. Before every target token the
source has read the text so far and nothing else, as during generation. Its predictions are read and projected as in a
bridge (`source_stream`, `projection`, `lookahead`), and the policy says how they are read where its tokens and the
target's do not end together. There is no base model. Where a bridge keeps the base's probability, for an unmapped
target token or where the source is inactive, the frequency with which the alignment has counted the target token stands
in for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vocabridge.alignment import Alignment, Corpus, TokenClass, VocabridgeError, Vocabulary, classes_of
from vocabridge.alignment.arrays import Int8
from vocabridge.alignment.sparse import sums
from vocabridge.bridge.steering import Steering
from vocabridge.decoding.token_tree import ROOT
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.diagnostics.breakdown import Breakdown
from vocabridge.diagnostics.token_spans import AlignedSpans, SpanRelation, align_spans
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.methods import METHODS, static
from vocabridge.projection.methods.base import BaseDistribution
from vocabridge.projection.positions import Position
from vocabridge.projection.source_predictions import ResolvedPredictions, SourcePredictions, parts_of
from vocabridge.projection.source_stream import SourceStream
from vocabridge.utils.progress import Progress, no_progress
from vocabridge.utils.windows import windows

_POSITIONS_A_FORWARD = 64
"""Positions that are read in one forward: enough that it costs little more than one forward of the whole text."""

_POSITIONS_AT_ONCE = 8
"""Positions whose logits are in memory at the same time."""

_FREQUENCY_SHARE = 1e-4
"""The share of the frequencies in every projected distribution, so that no token has a probability of 0."""


@dataclass
class Cost:
    """The bits of some target tokens of the text.

    Attributes:
        tokens: The number of target tokens.
        bytes: The number of their bytes.
        native: The bits that the source needs for the same bytes in its own tokens. Target tokens between two common
            boundaries share the bits of this stretch in proportion to their bytes.
        projected: The bits of the target tokens after projection.
    """

    tokens: int = 0
    bytes: int = 0
    native: float = 0.0
    projected: float = 0.0

    def add(self, length: int, native: float, projected: float) -> None:
        """Add one target token."""
        self.tokens += 1
        self.bytes += length
        self.native += native
        self.projected += projected

    def as_dict(self) -> dict[str, float]:
        """Return the JSON form, with the figures derived from the sums."""
        return vars(self) | {
            "native_bits_per_byte": self.native_bits_per_byte,
            "bits_per_byte": self.bits_per_byte,
            "loss": self.loss,
        }

    @property
    def native_bits_per_byte(self) -> float:
        """Bits per byte in the source's own tokens."""
        return self.native / max(1, self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte after projection."""
        return self.projected / max(1, self.bytes)

    @property
    def loss(self) -> float:
        """The bits that projection adds, relative to the native cost; NaN without any."""
        return self.projected / self.native - 1 if self.native else math.nan


class ProjectedCosts(Breakdown[Cost]):
    """The costs with one alignment under one policy."""

    def __init__(self) -> None:
        """Start with no tokens."""
        super().__init__(Cost)


@dataclass(frozen=True)
class Score:
    """The score of one alignment on one text.

    Attributes:
        model: The source model's name.
        source: The source vocabulary's name.
        target: The target vocabulary's name.
        method: The alignment's method.
        positions: The number of target tokens that were scored.
        common: How many of them start where a source token of the whole text starts.
        policies: The costs by policy.
    """

    model: str
    source: str
    target: str
    method: str
    positions: int
    common: int
    policies: dict[BoundaryPolicy, ProjectedCosts]

    @property
    def common_share(self) -> float:
        """The share of positions at common boundaries."""
        return self.common / max(1, self.positions)

    @property
    def classes(self) -> list[TokenClass]:
        """The classes of target tokens that occur in the text."""
        return next(iter(self.policies.values())).classes

    @property
    def relations(self) -> list[SpanRelation]:
        """The span relations that occur in the text."""
        return next(iter(self.policies.values())).relations

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "model": self.model,
            "source": self.source,
            "target": self.target,
            "method": self.method,
            "positions": self.positions,
            "common_share": self.common_share,
            "policies": {policy.value: projected.as_dict() for policy, projected in self.policies.items()},
        }


def score(
    model: LoadedModel,
    target: Vocabulary,
    alignments: Mapping[str, Alignment],
    corpus: Corpus,
    policies: Sequence[BoundaryPolicy] = tuple(BoundaryPolicy),
    progress: Progress = no_progress,
) -> dict[str, Score]:
    """Score alignments of one pair of vocabularies on one text.

    Args:
        model: The source model.
        target: The target vocabulary.
        alignments: Alignments from the model's vocabulary to the target's, by names of your choice.
        corpus: The text; no alignment should have been counted on it.
        policies: The policies to compare.
        progress: Called with the number of bytes that are done.

    Returns:
        The score of each alignment, by its name.

    Raises:
        VocabridgeError: An alignment is for other tokenizers; or the text has no common boundary to start at.
    """
    projectors = {name: AlignmentProjector(model, target, alignment) for name, alignment in alignments.items()}
    results = {name: {policy: ProjectedCosts() for policy in policies} for name in alignments}
    classes = classes_of(target)
    positions = common = done = 0
    for window in windows(corpus):
        aligned = align_spans(model.vocabulary, target, window)
        positions += len(aligned.spans)
        common += aligned.common
        if aligned.spans:
            native = own_bits(model, aligned.source_ids)
            for policy in policies:
                costs = {name: by_policy[policy] for name, by_policy in results.items()}
                _add_costs(costs, projectors, policy, aligned, native, classes)
        done += len(window.encode())
        progress(done, corpus.bytes, "scoring")
    if not positions:
        raise VocabridgeError(
            "the text is too short to score, because tokens of both vocabularies start together nowhere in it; give "
            "more text"
        )
    source = model.vocabulary.name
    return {
        name: Score(model.name, source, target.name, alignments[name].method, positions, common, by_policy)
        for name, by_policy in results.items()
    }


def _add_costs(
    costs: Mapping[str, ProjectedCosts],
    projectors: Mapping[str, AlignmentProjector],
    policy: BoundaryPolicy,
    aligned: AlignedSpans,
    native: np.ndarray[Any, Any],
    classes: Int8,
) -> None:
    """Add the costs of a text with every alignment under one policy.

    Args:
        costs: The sums to add to, by alignment.
        projectors: The alignments, by the same names.
        policy: The policy.
        aligned: The tokens of the text; at least one is scored.
        native: The bits of each of the source's own tokens.
        classes: The class of every target token.
    """
    # The source's predictions do not depend on the alignment, so one stream serves all.
    stream = next(iter(projectors.values())).steering.open_stream(1, policy=policy)
    pieces = stream.pieces(aligned.target_ids[:-1])  # nothing is predicted after the last token
    stream.append(0, pieces[: aligned.first - 1])
    for start in range(0, len(aligned.spans), _POSITIONS_A_FORWARD):
        spans = aligned.spans[start : start + _POSITIONS_A_FORWARD]
        first = aligned.first - 1 + start
        read = stream.advance([pieces[first : first + len(spans)]], len(spans))
        for name, projector in projectors.items():
            for part, q, active in projector.project(stream, read):
                tokens = torch.tensor([span.token for span in spans[part]], device=q.device)
                bits = -q.gather(1, tokens[:, None])[:, 0].log2()
                costs[name].inactive += int((~active).sum())
                for span, projected in zip(spans[part], bits.tolist(), strict=True):
                    of_span = float(native[span.sources].sum()) * span.share
                    costs[name].add(TokenClass(classes[span.token]), span.relation, span.length, of_span, projected)


class AlignmentProjector:
    """Projects a source model's predictions by one alignment, without a base model.

    Attributes:
        steering: The steering that reads and projects the predictions.
    """

    def __init__(self, model: LoadedModel, target: Vocabulary, alignment: Alignment) -> None:
        """Prepare for a source model, the target vocabulary and an alignment of the two.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        source = ExpertPair(model, model)  # only its tuned distribution is used
        alignment = alignment.fitted(model.vocabulary, target)
        self.steering = Steering.over(target, source, alignment, Combination(ProjectionMethod.STATIC, 0.0, 1.0, 0.0))
        # Control tokens have a frequency, too, because a text may hold the unknown token or spell out a special one.
        frequency = sums(alignment.counts, axis=1) + 1
        self._frequency = torch.from_numpy((frequency / frequency.sum()).astype("float32"))

    @torch.no_grad()
    def project(
        self,
        stream: SourceStream,
        positions: Sequence[Position],
        method: ProjectionMethod = ProjectionMethod.STATIC,
        p_base: Tensor | None = None,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Project the source's predictions at some positions onto the target's vocabulary.

        Args:
            stream: A stream of `steering`, or of a steering with the same source and target.
            positions: Positions of the stream.
            method: A projection method of distributions.
            p_base: The base's distributions there, (n, |T|); the informed method needs them. Without them, the
                frequencies of the target's tokens in the alignment stand in for them.

        Yields:
            For a few positions at a time: their slice, the distributions there (k, |T|), and where the source makes a
            prediction, (k,).
        """
        steering = self.steering
        frequency = self._frequency.to(steering.projection.mapped_source.device)

        def q_of(part: slice, predicted: ResolvedPredictions) -> Tensor:
            p = torch.stack(predicted.scores.distributions).softmax(-1)
            fallback = frequency.expand(p.shape[1], -1) if p_base is None else p_base[part]
            if method is ProjectionMethod.STATIC:
                q = static.Method().distributions(steering.projection, p, fallback, predicted.split)[0]
            else:
                base = BaseDistribution(fallback.log(), fallback)
                change = METHODS[method].project(steering.projection, p, base, predicted.split)[0]
                q = (change + fallback.log()).softmax(-1)
            q = torch.where(predicted.active > 0, q, fallback)
            return (1 - _FREQUENCY_SHARE) * q + _FREQUENCY_SHARE * fallback

        def base_at(part: slice, first: SourcePredictions) -> Tensor:
            # Without a base, the projection without lookahead stands in for its prediction.
            return p_base[part] if p_base is not None else q_of(part, ResolvedPredictions(first.scores, first.active))

        predictions = steering.predictions(stream, positions, base_at)
        for part, predicted in zip(parts_of(len(positions)), predictions, strict=True):
            yield part, q_of(part, predicted), predicted.active[:, 0] > 0


def own_bits(model: LoadedModel, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the bits of each token of a text in the model's own vocabulary, float64 (n,).

    The first token has 0 bits if the model has no bos token, because nothing stands in front of it.
    """
    decoder, nodes = TreeDecoder.for_text({"model": model.model}, model.vocabulary.bos_ids, ids)
    after = [node for node in nodes if node != ROOT]
    decoder.read([after])
    bits = [0.0] * (len(nodes) - len(after))
    for start in range(0, len(after), _POSITIONS_AT_ONCE):
        part = after[start : start + _POSITIONS_AT_ONCE]
        logits = decoder.logits([(0, node) for node in part])["model"]
        tokens = torch.tensor(ids[len(bits) : len(bits) + len(part)], device=logits.device)
        bits += (torch.nn.functional.cross_entropy(logits, tokens, reduction="none") / math.log(2)).tolist()
    return np.array(bits)
