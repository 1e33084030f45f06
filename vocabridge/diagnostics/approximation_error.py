"""How far what is projected is from the truth: the approximations against the exact distribution, on real text.

At some of a text's target tokens, what a source model says of the next one exactly (`exact_next_token`), and what each
policy, method and alignment makes of it: KL(truth || projected) in bits, total variation, and whether the most likely
token is the same. With a base model its own distributions go into the methods, as in a bridge, and the informed method
is compared, too. Of a value source it is what it changes in the base's distributions that is compared
(`error_subjects`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vocabridge.alignment import Alignment, Corpus, TokenClass, VocabridgeError, Vocabulary, classes_of
from vocabridge.alignment.arrays import Float64, Int8
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.diagnostics.breakdown import Breakdown
from vocabridge.diagnostics.error_subjects import Change, Distribution, Subject
from vocabridge.diagnostics.exact_next_token import ROUNDS, TOLERANCE, ExactPredictor, NextTokenDistribution
from vocabridge.diagnostics.token_spans import Place, Places, places
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.utils.progress import Progress, no_progress
from vocabridge.utils.ranges import COUNT, TOLERANCES
from vocabridge.utils.windows import windows

_CONTEXT = 100
"""Bytes that a model has read of a window, at least: one without a bos token knows nothing of the first token."""

_TINY = 1e-37


@dataclass
class ApproximationError:
    """From the truth, at some positions; sums, of which the means are made.

    Attributes:
        positions: How many.
        kl: KL(truth || projected) in bits.
        variation: Total variation, from 0 to 1 each.
        agree: At how many the likeliest token is the same.
    """

    positions: int = 0
    kl: float = 0.0
    variation: float = 0.0
    agree: int = 0

    def add(self, kl: float, variation: float, agrees: bool) -> None:
        """Counts one position."""
        self.positions += 1
        self.kl += kl
        self.variation += variation
        self.agree += agrees

    @property
    def mean_kl(self) -> float:
        """KL(truth || projected) in bits."""
        return self.kl / max(1, self.positions)

    @property
    def mean_variation(self) -> float:
        """Total variation."""
        return self.variation / max(1, self.positions)

    @property
    def agreement(self) -> float:
        """The share of positions at which the likeliest token is the same."""
        return self.agree / max(1, self.positions)

    def as_dict(self) -> dict[str, float | int]:
        """Its JSON form: means."""
        return {
            "positions": self.positions,
            "kl": self.mean_kl,
            "variation": self.mean_variation,
            "agreement": self.agreement,
        }


class Approximation(Breakdown[ApproximationError]):
    """What one method under one policy is worth.

    Attributes:
        method: How distributions change vocabulary.
        policy: What the source says where tokens do not end together.
    """

    def __init__(self, method: ProjectionMethod, policy: BoundaryPolicy) -> None:
        """Of no positions yet."""
        super().__init__(ApproximationError)
        self.method = method
        self.policy = policy

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        return {"method": self.method.value, "policy": self.policy.value} | super().as_dict()


@dataclass(frozen=True)
class ApproximationErrors:
    """How far the approximations by one alignment are from the truth.

    Attributes:
        model: The source model by name.
        base: The base model by name, if one was asked.
        source: The source vocabulary's name.
        target: The target vocabulary's name.
        method: How the alignment was made.
        positions: Target tokens that were compared.
        impossible: Those chosen that were not, as the source rules out every text that the target would have cut so.
        mass: Of a change: the mean share of the base's mass that the compared tokens have; else 1.
        open: Mean share of the truth that a continuation might still have given to other tokens, at most.
        lost: Mean share of it that was not read or not looked at, at most.
        approximations: Each method under each policy.
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
        """Its JSON form."""
        return vars(self) | {"approximations": [one.as_dict() for one in self.approximations]}


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
    """Compares what is projected by alignments of one pair of vocabularies with the truth.

    Args:
        model: The source model; or a value source, of which its change of the base is compared, by every method.
        target: The target vocabulary.
        alignments: By a name of your own; each from the model's vocabulary to the target's.
        corpus: The text, one that no alignment was built on.
        base: A base model with the target's vocabulary: the informed method is compared, too.
        positions: How many of the text's target tokens are compared, at most; spread evenly over it.
        policies: Those to compare.
        tolerance: The share of the truth that may stay open; see `ExactPredictor`, for `rounds`, too.
        rounds: How many times it is read on for that, at most.
        progress: Told how many positions are done.

    Raises:
        VocabridgeError: A tokenizer has no byte-exact view; an alignment or the base is for other tokenizers; a value
            source is given without a base; or the text is too short.
    """
    COUNT.check("positions", positions)
    TOLERANCES.check("tolerance", tolerance)
    subject = _subject(model, target, alignments, base)
    truth = ExactPredictor(subject.bytes, target, tolerance=tolerance, rounds=rounds)
    found = {
        name: {(method, policy): Approximation(method, policy) for method in subject.methods for policy in policies}
        for name in alignments
    }
    classes = classes_of(target)
    exact: list[NextTokenDistribution] = []
    masses: list[float] = []
    done, impossible = 0, 0
    chosen = _chosen(model.vocabulary, target, corpus, positions)
    total = sum(len(several) for _, _, several in chosen)
    for text, laid, several in chosen:
        truths = []
        for answer in _truths(truth, text, laid, several):
            truths.append(answer)
            progress(done := done + 1, total, "comparing")
        kept = [(place, one) for place, one in zip(several, truths, strict=True) if (one.p > 0).all(0).any()]
        impossible += len(several) - len(kept)
        exact += [one for _, one in kept]
        own: Sequence[Tensor | None] = [None] * len(kept)
        if base is not None and kept:
            own = list(_said_by(base, laid.tokens, [i for (i, _), _ in kept]))
        compared = [subject.truth(one, p_base) for (_, one), p_base in zip(kept, own, strict=True)]
        masses += [mass for _, _, mass in compared]
        places_there, p_compared = [one for one, _ in kept], [(p, some) for p, some, _ in compared]
        for policy in policies if kept else ():
            _add_errors(found, subject, policy, laid, places_there, p_compared, own, classes)
    if not exact:
        raise VocabridgeError(
            f"the text is too short to compare: behind {_CONTEXT} bytes there is no place in it where tokens of both "
            "vocabularies start; give more text"
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
            open=float(np.mean([one.open for one in exact])),
            lost=float(np.mean([one.lost for one in exact])),
            approximations=list(one.values()),
        )
        for name, one in found.items()
    }


def _subject(
    model: LoadedModel | ValueSource, target: Vocabulary, alignments: Mapping[str, Alignment], base: LoadedModel | None
) -> Subject:
    """Return what is compared of a model.

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
    raise VocabridgeError(f"what {model.name} changes is a base model's distribution; name a base")


def _add_errors(
    found: Mapping[str, Mapping[tuple[ProjectionMethod, BoundaryPolicy], Approximation]],
    subject: Subject,
    policy: BoundaryPolicy,
    laid: Places,
    chosen: Sequence[tuple[int, Place]],
    truths: Sequence[tuple[Float64, Any]],
    own: Sequence[Tensor | None],
    classes: Int8,
) -> None:
    """Add the errors at some tokens of a text, of every alignment and method under one policy.

    Args:
        found: Where to add them.
        subject: What is compared.
        policy: The policy.
        laid: How tokens lie in the text.
        chosen: The tokens, with their index.
        truths: The exact distribution before each, and the target tokens that it is over.
        own: The base's distribution before each; None without a base.
        classes: The class of every target token.
    """
    steering = next(iter(subject.steerings.values()))  # the alignments differ, what the source predicts does not
    stream, at = steering.open_stream(1, subject.required_scores, policy), 0
    for (i, place), (p, some), p_base in zip(chosen, truths, own, strict=True):
        (position,) = stream.advance([stream.pieces(laid.tokens[at:i])], 1)
        at = i
        for name, one in found.items():
            for method in subject.methods:
                approximation = one[method, policy]
                q, says = subject.projected(name, stream, position, method, p_base)
                apart = _apart(p, q.double().cpu().numpy()[some])
                approximation.silent += int(not says)
                approximation.add(TokenClass(classes[place.token]), place.fit, *apart)


def _chosen(
    source: Vocabulary, target: Vocabulary, corpus: Corpus, count: int
) -> list[tuple[str, Places, list[tuple[int, Place]]]]:
    """The windows of a text, how tokens lie there, and some of them, spread evenly, with their index."""
    laid = [(text, places(source, target, text)) for text in windows(corpus)]
    there = [
        (window, (one.first + i, place))
        for window, (_, one) in enumerate(laid)
        for i, place in enumerate(one.places)
        if place.start >= _CONTEXT
    ]
    some = np.unique(np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int)).tolist()
    chosen: dict[int, list[tuple[int, Place]]] = {}
    for window, place in (there[i] for i in some):
        chosen.setdefault(window, []).append(place)
    return [(*laid[window], several) for window, several in chosen.items()]


def _truths(
    truth: ExactPredictor, text: str, laid: Places, several: Sequence[tuple[int, Place]]
) -> Iterator[NextTokenDistribution]:
    """What the source says of some tokens of a text, one after the other."""
    data, at, here = text.encode(), 0, truth.model.text()
    for i, place in several:
        here, at = here.after(data[at : place.start]), place.start
        yield truth.predict(here, data[:at], laid.tokens[:i])


@torch.no_grad()
def _said_by(base: LoadedModel, tokens: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """What a model says before some of a text's tokens, by their index, (n, |T|)."""
    forest, nodes = TreeDecoder.along({"base": base.model}, base.vocabulary.bos_ids, tokens)
    asked = [nodes[i] for i in wanted]
    forest.read([asked])
    return forest.logits([(0, node) for node in asked])["base"].softmax(-1)


def _apart(truth: Float64, q: Float64) -> tuple[float, float, bool]:
    """KL(truth || q) in bits, total variation, and whether the likeliest token is the same; q is scaled to 1."""
    q = q / max(float(q.sum()), _TINY)
    some = truth > 0
    kl = float((truth[some] * np.log2(truth[some] / np.maximum(q[some], _TINY))).sum())
    return kl, float(np.abs(truth - q).sum() / 2), bool(truth.argmax() == q.argmax())
