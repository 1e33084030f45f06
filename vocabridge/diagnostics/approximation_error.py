"""How far projected predictions are from the exact distribution, on real text.

At some target tokens of a text, the exact distribution of a source model (`exact_next_token`) is compared with what
each policy, projection method and alignment makes of the model's predictions: by KL(exact || projected) in bits, by
total variation, and by whether the most likely token is the same. With a base model, the methods use its distributions,
as in a bridge, and the informed method is compared, too. Of a value source, the changed distribution of the base is
compared (`error_subjects`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vocabridge.alignment import Alignment, Corpus, TokenClass, VocabridgeError, Vocabulary, classes_of
from vocabridge.alignment.arrays import Float64, Int8
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.diagnostics.breakdown import Breakdown
from vocabridge.diagnostics.error_subjects import Change, Distribution, ExactReference, Subject
from vocabridge.diagnostics.exact_next_token import ROUNDS, TOLERANCE, ExactPredictor, NextTokenDistribution
from vocabridge.diagnostics.token_spans import TokenSpan, align_spans
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.utils.progress import Progress, no_progress
from vocabridge.utils.ranges import COUNT, TOLERANCES
from vocabridge.utils.windows import windows

_MIN_CONTEXT = 100
"""The number of bytes in front of every compared token, because a model has to read some text before it predicts."""

_TINY = 1e-37


@dataclass
class ApproximationError:
    """Sums over some positions of the distance from the exact distribution.

    Attributes:
        positions: The number of positions.
        kl: The sum of KL(exact || projected) in bits.
        variation: The sum of the total variations, each from 0 to 1.
        agree: At how many positions the most likely token is the same.
    """

    positions: int = 0
    kl: float = 0.0
    variation: float = 0.0
    agree: int = 0

    def add(self, kl: float, variation: float, agrees: bool) -> None:
        """Add one position."""
        self.positions += 1
        self.kl += kl
        self.variation += variation
        self.agree += agrees

    @property
    def mean_kl(self) -> float:
        """The mean of KL(exact || projected) in bits."""
        return self.kl / max(1, self.positions)

    @property
    def mean_variation(self) -> float:
        """The mean total variation."""
        return self.variation / max(1, self.positions)

    @property
    def agreement(self) -> float:
        """The share of positions at which the most likely token is the same."""
        return self.agree / max(1, self.positions)

    def as_dict(self) -> dict[str, float | int]:
        """Return the JSON form, with means."""
        return {
            "positions": self.positions,
            "kl": self.mean_kl,
            "variation": self.mean_variation,
            "agreement": self.agreement,
        }


class Approximation(Breakdown[ApproximationError]):
    """The errors of one projection method under one policy.

    Attributes:
        method: The projection method.
        policy: The policy.
    """

    def __init__(self, method: ProjectionMethod, policy: BoundaryPolicy) -> None:
        """Start with no positions."""
        super().__init__(ApproximationError)
        self.method = method
        self.policy = policy

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"method": self.method.value, "policy": self.policy.value} | super().as_dict()


@dataclass(frozen=True)
class ApproximationErrors:
    """The errors with one alignment.

    Attributes:
        model: The source model's name.
        base: The base model's name; None without one.
        source: The source vocabulary's name.
        target: The target vocabulary's name.
        method: The alignment's method.
        positions: The number of target tokens before which distributions were compared.
        impossible: The number of chosen tokens that were left out, because the source rules out every text in which
            the target has the tokens before them.
        mass: Of a change, the mean share of the base's mass that the compared tokens have; else 1.
        open: The mean share, at most, that text that follows might move to other tokens of the exact distribution.
        lost: The mean share, at most, of the exact distribution that was not evaluated or not examined.
        approximations: The errors of each method under each policy.
    """

    model: str
    base: str | None
    source: str
    target: str
    method: str
    positions: int
    impossible: int
    mass: float
    open: float
    lost: float
    approximations: list[Approximation]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return vars(self) | {"approximations": [approximation.as_dict() for approximation in self.approximations]}


def distances(  # Long because each setting is a parameter, documented
    model: LoadedModel | ValueSource,
    target: Vocabulary,
    alignments: Mapping[str, Alignment],
    corpus: Corpus,
    *,
    base: LoadedModel | None = None,
    positions: int = 200,
    policies: Sequence[BoundaryPolicy] = tuple(BoundaryPolicy),
    tolerance: float = TOLERANCE,
    rounds: int = ROUNDS,
    progress: Progress = no_progress,
) -> dict[str, ApproximationErrors]:
    """Compare projections by alignments of one pair of vocabularies with the exact distributions.

    Args:
        model: The source model; or a value source, whose change of the base is compared with every method.
        target: The target vocabulary.
        alignments: Alignments from the model's vocabulary to the target's, by names of your choice.
        corpus: The text; no alignment should have been counted on it.
        base: A base model with the target's vocabulary. The informed method is compared, too.
        positions: The number of target tokens to compare at most, spread evenly over the text.
        policies: The policies to compare.
        tolerance: The share of an exact distribution that may stay open; see `ExactPredictor`.
        rounds: How many times open leaves are extended at most; see `ExactPredictor`.
        progress: Called with the number of positions that are done.

    Returns:
        The errors with each alignment, by its name.

    Raises:
        VocabridgeError: A tokenizer has no byte-exact view; an alignment or the base is for other tokenizers; a value
            source is given without a base; or the text is too short.
    """
    COUNT.check("positions", positions)
    TOLERANCES.check("tolerance", tolerance)
    subject = _subject(model, target, alignments, base)
    predictor = ExactPredictor(subject.byte_lm, target, tolerance=tolerance, rounds=rounds)
    errors = {
        name: {(method, policy): Approximation(method, policy) for method in subject.methods for policy in policies}
        for name in alignments
    }
    classes = classes_of(target)
    exact: list[NextTokenDistribution] = []
    masses: list[float] = []
    done, impossible = 0, 0
    samples = _samples(model.vocabulary, target, corpus, positions)
    total = sum(len(sample.spans) for sample in samples)
    for sample in samples:
        distributions = []
        for distribution in _exact_distributions(predictor, sample):
            distributions.append(distribution)
            progress(done := done + 1, total, "comparing")
        possible = [i for i, distribution in enumerate(distributions) if (distribution.p > 0).all(0).any()]
        impossible += len(distributions) - len(possible)
        if not possible:
            continue
        sample = replace(sample, spans=[sample.spans[i] for i in possible])
        of_text = [distributions[i] for i in possible]
        exact += of_text
        p_base: Sequence[Tensor | None] = [None] * len(of_text) if base is None else list(_predict(base, sample))
        references = [subject.exact(source, p) for source, p in zip(of_text, p_base, strict=True)]
        masses += [reference.mass for reference in references]
        for policy in policies:
            _add_errors(errors, subject, policy, sample, references, p_base, classes)
    if not exact:
        raise VocabridgeError(
            f"the text is too short to compare, because after its first {_MIN_CONTEXT} bytes tokens of both "
            "vocabularies start together nowhere in it; give more text"
        )
    return {
        name: ApproximationErrors(
            model=model.name,
            base=None if base is None else base.name,
            source=model.vocabulary.name,
            target=target.name,
            method=alignments[name].method,
            positions=len(exact),
            impossible=impossible,
            mass=float(np.mean(masses)),
            open=float(np.mean([distribution.open for distribution in exact])),
            lost=float(np.mean([distribution.lost for distribution in exact])),
            approximations=list(approximations.values()),
        )
        for name, approximations in errors.items()
    }


@dataclass(frozen=True)
class _Sample:
    """Some target tokens of a window of text.

    Attributes:
        text: The text of the window.
        target_ids: Its target tokens.
        spans: The chosen ones, each with its index in `target_ids`.
    """

    text: str
    target_ids: list[int]
    spans: list[tuple[int, TokenSpan]]


def _subject(
    model: LoadedModel | ValueSource, target: Vocabulary, alignments: Mapping[str, Alignment], base: LoadedModel | None
) -> Subject:
    """Return what is compared.

    Raises:
        VocabridgeError: The base has another vocabulary than the target's; or a value source is given without a base.
    """
    if base is not None and base.vocabulary.fingerprint != target.fingerprint:
        raise VocabridgeError(
            f"the alignment is to the tokenizer of {target.name}, and {base.name} has another; name a base "
            "with this one"
        )
    if isinstance(model, LoadedModel):
        return Distribution(model, target, alignments, informed=base is not None)
    if base is not None:
        return Change(model, target, alignments)
    raise VocabridgeError(f"{model.name} is a value source, which changes a base model's distribution; name a base")


def _add_errors(
    errors: Mapping[str, Mapping[tuple[ProjectionMethod, BoundaryPolicy], Approximation]],
    subject: Subject,
    policy: BoundaryPolicy,
    sample: _Sample,
    references: Sequence[ExactReference],
    p_base: Sequence[Tensor | None],
    classes: Int8,
) -> None:
    """Add the errors at some tokens of a text, of every alignment and method under one policy.

    Args:
        errors: The sums to add to, by alignment.
        subject: What is compared.
        policy: The policy.
        sample: The tokens.
        references: What to compare with, before each token.
        p_base: The base's distribution before each token, (|T|,); None without a base.
        classes: The class of every target token.
    """
    # The source's predictions do not depend on the alignment, so one stream serves all.
    stream, read = next(iter(subject.steerings.values())).open_stream(1, subject.required_scores, policy), 0
    for (i, span), reference, p in zip(sample.spans, references, p_base, strict=True):
        (position,) = stream.advance([stream.pieces(sample.target_ids[read:i])], 1)
        read = i
        for name, approximations in errors.items():
            for method in subject.methods:
                approximation = approximations[method, policy]
                q, active = subject.projected(name, stream, position, method, p)
                distance = _distance(reference.p, q.double().cpu().numpy()[reference.tokens])
                approximation.inactive += int(not active)
                approximation.add(TokenClass(classes[span.token]), span.relation, *distance)


def _samples(source: Vocabulary, target: Vocabulary, corpus: Corpus, count: int) -> list[_Sample]:
    """Choose target tokens of a corpus, spread evenly over it."""
    texts = list(windows(corpus))
    aligned = [align_spans(source, target, text) for text in texts]
    candidates = [
        (window, (spans.first + i, span))
        for window, spans in enumerate(aligned)
        for i, span in enumerate(spans.spans)
        if span.start >= _MIN_CONTEXT
    ]
    count = min(count, len(candidates))
    chosen: dict[int, list[tuple[int, TokenSpan]]] = {}
    for i in np.unique(np.linspace(0, len(candidates) - 1, count).round().astype(int)).tolist():
        window, span = candidates[i]
        chosen.setdefault(window, []).append(span)
    return [_Sample(texts[window], aligned[window].target_ids, spans) for window, spans in chosen.items()]


def _exact_distributions(predictor: ExactPredictor, sample: _Sample) -> Iterator[NextTokenDistribution]:
    """Yield the exact distribution before each token of a sample."""
    data, end, text = sample.text.encode(), 0, predictor.model.text()
    for i, span in sample.spans:
        text, end = text.after(data[end : span.start]), span.start
        yield predictor.predict(text, data[:end], sample.target_ids[:i])


@torch.no_grad()
def _predict(base: LoadedModel, sample: _Sample) -> Tensor:
    """Return the base's distributions before each of n tokens of a sample, (n, |T|)."""
    decoder, nodes = TreeDecoder.for_text({"base": base.model}, base.vocabulary.bos_ids, sample.target_ids)
    chosen = [nodes[i] for i, _ in sample.spans]
    decoder.read([chosen])
    return decoder.logits([(0, node) for node in chosen])["base"].softmax(-1)


def _distance(exact: Float64, q: Float64) -> tuple[float, float, bool]:
    """Return KL(exact || q) in bits, the total variation, and whether the most likely token is the same.

    Args:
        exact: The exact distribution, (n,).
        q: Another one, (n,); it is scaled to 1.
    """
    q = q / max(float(q.sum()), _TINY)
    possible = exact > 0
    kl = float((exact[possible] * np.log2(exact[possible] / np.maximum(q[possible], _TINY))).sum())
    return kl, float(np.abs(exact - q).sum() / 2), bool(exact.argmax() == q.argmax())
