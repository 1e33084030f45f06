"""The number by which an alignment is judged: what a source model's own predictions cost after the crossing.

    bits per byte = -1 / bytes * sum over target tokens y of log2 q_T(y),    q_T = C @ p_S

beside the model's native cost, the same text in its own tokens. At every target token the source has read the
text so far and nothing else, as when generating, and is heard and projected as a bridge does it (`source_stream`,
`projection`, `lookahead`). What it says where its own tokens may not end is the policy. No base model is asked: what
it says where nobody speaks, for a target token or at a whole position, is here how often the alignment has counted
the target tokens.
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
from vocabridge.alignment.sparse import sums
from vocabridge.bridge.steering import Steering
from vocabridge.decoding.token_tree import ROOT
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.diagnostics.breakdown import Breakdown
from vocabridge.diagnostics.token_spans import Fit, places
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

_READ_AT_ONCE = 64
"""Positions that are read in one forward: enough that it costs little more than one of the whole text."""

_AT_ONCE = 8
"""Positions whose logits are in memory at the same time."""

_FLOOR = 1e-4
"""The share of every distribution that goes to the frequencies, so that nothing is impossible."""


@dataclass
class Cost:
    """Bits spent on some part of the text.

    Attributes:
        tokens: Target tokens.
        bytes: Their bytes.
        native: What the same bytes cost in the source's own tokens; a stretch between two common boundaries is
            shared out over its target tokens by their bytes.
        projected: What the target tokens cost after the crossing.
    """

    tokens: int = 0
    bytes: int = 0
    native: float = 0.0
    projected: float = 0.0

    def add(self, length: int, native: float, projected: float) -> None:
        """Count one target token."""
        self.tokens += 1
        self.bytes += length
        self.native += native
        self.projected += projected

    def as_dict(self) -> dict[str, float]:
        """Its JSON form: bits as counted, and what derives from them."""
        return vars(self) | {
            "native_bits_per_byte": self.native_bits_per_byte,
            "bits_per_byte": self.bits_per_byte,
            "loss": self.loss,
        }

    @property
    def native_bits_per_byte(self) -> float:
        """The source's own cost."""
        return self.native / max(1, self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """The cost after the crossing."""
        return self.projected / max(1, self.bytes)

    @property
    def loss(self) -> float:
        """What the crossing adds, relative to the native cost."""
        return self.projected / self.native - 1 if self.native else math.nan


class ProjectedCosts(Breakdown[Cost]):
    """What one policy made of one alignment."""

    def __init__(self) -> None:
        """Of no tokens yet."""
        super().__init__(Cost)


@dataclass(frozen=True)
class Score:
    """The score of one alignment on one text.

    Attributes:
        model: The source model by name.
        source: The source vocabulary's name.
        target: The target vocabulary's name.
        method: How the alignment was made.
        positions: Target tokens scored.
        common: Those that start where a source token of the finished text starts.
        policies: By policy.
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
        """Share of positions at common boundaries."""
        return self.common / max(1, self.positions)

    @property
    def classes(self) -> list[TokenClass]:
        """The classes of which the text has tokens."""
        return next(iter(self.policies.values())).classes

    @property
    def fits(self) -> list[Fit]:
        """The ways to lie of which the text has tokens."""
        return next(iter(self.policies.values())).fits

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form."""
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
        alignments: By a name of your own; each from the model's vocabulary to the target's.
        corpus: The text, one that no alignment was built on.
        policies: Those to compare.
        progress: Told how many bytes are done.

    Raises:
        VocabridgeError: An alignment is for other tokenizers; or the text has no common boundary to start at.
    """
    scorers = {name: Scorer(model, target, alignment) for name, alignment in alignments.items()}
    results = {name: {policy: ProjectedCosts() for policy in policies} for name in alignments}
    classes = classes_of(target)
    positions = common = done = 0
    for window in windows(corpus):
        found = places(model.vocabulary, target, window)
        charged, first = found.places, found.first
        positions += len(charged)
        common += found.common
        own = own_bits(model, found.sources) if charged else np.zeros(0)
        for policy in policies if charged else ():
            steering = next(iter(scorers.values())).steering  # the alignments differ, what the source predicts does not
            stream = steering.open_stream(1, policy=policy)
            pieces = stream.pieces(found.tokens[:-1])  # nothing is predicted after the last
            stream.append(0, pieces[: first - 1])
            for start in range(0, len(charged), _READ_AT_ONCE):
                part = charged[start : start + _READ_AT_ONCE]
                at = first - 1 + start
                read = stream.advance([pieces[at : at + len(part)]], len(part))
                for name, scorer in scorers.items():
                    projected = results[name][policy]
                    for some, q, says in scorer.projected(stream, read):
                        truth = torch.tensor([place.token for place in part[some]], device=q.device)
                        bits = -q.gather(1, truth[:, None])[:, 0].log2()
                        projected.silent += int((~says).sum())
                        for place, spent in zip(part[some], bits.tolist(), strict=True):
                            native = float(own[place.sources].sum()) * place.share
                            projected.add(TokenClass(classes[place.token]), place.fit, place.length, native, spent)
        done += len(window.encode())
        progress(done, corpus.bytes, "scoring")
    if not positions:
        raise VocabridgeError("the text is too short to score: no place in it where tokens of both vocabularies start")
    return {
        name: Score(model.name, model.vocabulary.name, target.name, alignments[name].method, positions, common, one)
        for name, one in results.items()
    }


class Scorer:
    """Projects by one alignment what a source says.

    Attributes:
        steering: By which it is heard and projected.
    """

    def __init__(self, model: LoadedModel, target: Vocabulary, alignment: Alignment) -> None:
        """Takes the source model, the target's vocabulary and the alignment of the two.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        source = ExpertPair(model, model)  # of which only the tuned donor is asked
        alignment = alignment.fitted(model.vocabulary, target)
        self.steering = Steering.over(target, source, alignment, Combination(ProjectionMethod.STATIC, 0.0, 1.0, 0.0))
        # Control tokens too: a text may hold the unknown token, or spell out a special one.
        frequency = sums(alignment.counts, axis=1) + 1
        self._frequency = torch.from_numpy((frequency / frequency.sum()).astype("float32"))

    @torch.no_grad()
    def projected(
        self,
        stream: SourceStream,
        positions: Sequence[Position],
        method: ProjectionMethod = ProjectionMethod.STATIC,
        p_base: Tensor | None = None,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Project the source's predictions at some positions onto the target's vocabulary.

        Args:
            stream: A stream of `steering`, or of one with the same source and target.
            positions: Positions of the stream.
            method: A method of distributions.
            p_base: The base's distributions there, (n, |T|); the informed method needs them. Without them, how often
                the alignment has counted the target's tokens replaces them.

        Yields:
            A few positions each time, the distributions there (k, |T|), and where the source makes a prediction, (k,).
        """
        steering = self.steering
        frequency = self._frequency.to(steering.projection.mapped_source.device)

        def q_of(part: slice, predicted: ResolvedPredictions) -> Tensor:
            p = torch.stack(predicted.scores.distributions).softmax(-1)
            usual = frequency.expand(p.shape[1], -1) if p_base is None else p_base[part]
            if method is ProjectionMethod.STATIC:
                q = static.Method().distributions(steering.projection, p, usual, predicted.split)[0]
            else:
                base = BaseDistribution(usual.log(), usual)
                change = METHODS[method].project(steering.projection, p, base, predicted.split)[0]
                q = (change + usual.log()).softmax(-1)
            return (1 - _FLOOR) * torch.where(predicted.active > 0, q, usual) + _FLOOR * usual

        def base_at(part: slice, first: SourcePredictions) -> Tensor:
            # Where the base's prediction is not known, the projection without lookahead stands in for it.
            return p_base[part] if p_base is not None else q_of(part, ResolvedPredictions(first.scores, first.active))

        predictions = steering.predictions(stream, positions, base_at)
        for part, predicted in zip(parts_of(len(positions)), predictions, strict=True):
            yield part, q_of(part, predicted), predicted.active[:, 0] > 0


def own_bits(model: LoadedModel, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """What each of a text's own tokens costs the model; 0 for a first token that has nothing in front of it."""
    forest, nodes = TreeDecoder.along({"model": model.model}, model.vocabulary.bos_ids, ids)
    asked = [node for node in nodes if node != ROOT]
    forest.read([asked])
    bits = [0.0] * (len(nodes) - len(asked))
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        logits = forest.logits([(0, node) for node in some])["model"]
        truth = torch.tensor(ids[len(bits) : len(bits) + len(some)], device=logits.device)
        bits += (torch.nn.functional.cross_entropy(logits, truth, reduction="none") / math.log(2)).tolist()
    return np.array(bits)
