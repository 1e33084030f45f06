"""Fitting of a combination on validation texts: the projection method, the form and the weights.

    product   -log softmax(a f_1 + b f_2 - c f_3)[token]     features f: logits, or logarithms of distributions
    mixture   -log((1 - s) p + s q)[token]                   p, q: probabilities of the token

Both losses are convex in the weights, so a few steps of L-BFGS, or a line search, find the best ones. The models run
once. From the features of that run, the loss of any weights at any strength is computed.

A mixture needs the features of the true token only. A product needs a sum over the 10^5 tokens of the vocabulary at
each position. For it, the 512 tokens that are most likely under any feature are kept, and 128 tokens drawn at random
stand for the rest (importance sampling). So the bits of both forms can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.models.examples import Example, tokenize_scored
from vocabridge.options import Form, ProjectionMethod
from vocabridge.projection.combination import Combination, projected_scores
from vocabridge.projection.methods import METHODS
from vocabridge.projection.methods.base import BaseDistribution
from vocabridge.projection.positions import Position
from vocabridge.projection.source_predictions import parts_of
from vocabridge.projection.source_stream import SourceStream
from vocabridge.utils.progress import Progress, no_progress

_MOST_LIKELY = 512  # tokens kept at each position
_DRAWN = 128  # tokens drawn at each position to stand for the others
_MAX_POSITIONS = 1_500  # tokens of prompts and responses together; three weights need no more
_MAX_WEIGHT = 4.0  # a larger weight would mean that the texts are too few


@dataclass(frozen=True)
class FittedCombination:
    """A combination with its loss on validation texts.

    Attributes:
        combination: The method and the form with their weights.
        strength: The strength alpha of the combination.
        bits: Bits per response token of the combination at this strength.
        paper_bits: Bits per response token at the paper's weights (1, 1, 1) and strength 1; None for a mixture.
        positions: The number of response tokens.
    """

    combination: Combination
    strength: float
    bits: float
    paper_bits: float | None
    positions: int


def fit_combination(
    bridge: Bridge,
    examples: Sequence[Example],
    *,
    methods: Sequence[ProjectionMethod] = tuple(ProjectionMethod),
    progress: Progress = no_progress,
) -> list[FittedCombination]:
    """Fit each method, in each of its forms, on the responses of some examples.

    Args:
        bridge: The bridge, which has one steering. The steering's own combination is neither used nor changed.
        examples: Examples that are not in the test data.
        methods: The projection methods.
        progress: Called after each example.

    Returns:
        One fitted combination for each method and form, the fewest bits first.
    """
    features = Features.of(bridge, examples, methods, progress=progress)
    return sorted(map(features.judge, features.fitted()), key=lambda fit: fit.bits)


@dataclass(frozen=True)
class Features:
    """The features of combinations at n response tokens, over the k vocabulary tokens kept at each.

    Attributes:
        by_method: By method, the features that its weights multiply, without signs, (n, k, weights). The first are the
            base's log-probabilities.
        log_count: The logarithm of the number of vocabulary tokens that each of the k stands for, (n, k).
        truth: The index of the response's token among the k, (n,).
    """

    by_method: dict[ProjectionMethod, np.ndarray]
    log_count: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(
        cls,
        bridge: Bridge,
        examples: Sequence[Example],
        methods: Sequence[ProjectionMethod],
        *,
        progress: Progress = no_progress,
    ) -> Features:
        """Run the models on some examples; arguments as for `fit_combination`."""
        generator = torch.Generator().manual_seed(0)
        share = min(1.0, _MAX_POSITIONS / sum(len(tokenize_scored(e, bridge.vocabulary).ids) for e in examples))
        blocks: list[_Block] = []
        for number, example in enumerate(examples, start=1):
            blocks += _blocks(bridge, example, methods, share, generator)
            progress(number, len(examples), "fitting the weights")
        return cls(
            {method: torch.cat([block.features[method] for block in blocks]).numpy() for method in methods},
            torch.cat([block.log_count for block in blocks]).numpy(),
            torch.cat([block.truth for block in blocks]).numpy(),
        )

    def fitted(self) -> list[Combination]:
        """Return each method, in each of its forms, with the best weights."""
        combinations = []
        for method in self.by_method:
            combinations.append(self._product(method))
            if not METHODS[method].of_logit_delta:
                combinations.append(self._mixture(method))
        return combinations

    def bits(self, combination: Combination, strength: float = 1.0) -> float:
        """Return the mean bits a response token of a combination at a strength."""
        scaled = combination.at(strength)
        if scaled.form is Form.MIXTURE:
            return float(_mixed(scaled.tuned_weight, *self._true(scaled.method)).mean()) / math.log(2)
        weights = [scaled.base_weight, scaled.tuned_weight] + ([] if scaled.of_logit_delta else [scaled.untuned_weight])
        return self._loss(self._signed(scaled.method), np.array(weights))[0] / math.log(2)

    def judge(self, combination: Combination, strengths: Sequence[float] = (1.0,)) -> FittedCombination:
        """Return a combination with its bits at the best of some strengths."""
        bits, strength = min((self.bits(combination, strength), strength) for strength in strengths)
        product = combination.form is Form.PRODUCT
        paper = self.bits(Combination(combination.method)) if product else None
        return FittedCombination(combination, strength, bits, paper, len(self.truth))

    def _signed(self, method: ProjectionMethod) -> np.ndarray:
        """Return the features that a product adds up, with their signs, (n, k, weights)."""
        return self.by_method[method].astype(np.float64) * (
            [1.0, 1.0] if METHODS[method].of_logit_delta else [1.0, 1.0, -1.0]
        )

    def _true(self, method: ProjectionMethod) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probabilities of the true tokens under the base and the tuned model, (n,) each."""
        log_p, log_q = self.by_method[method][np.arange(len(self.truth)), self.truth, :2].T
        return log_p, log_q

    def _loss(self, signed: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean nats a token of a product, and the gradient in the weights, (weights,)."""
        rows = np.arange(len(self.truth))
        scores = signed @ weights
        true_scores = scores[rows, self.truth]
        scores += self.log_count
        highest = scores.max(1, keepdims=True)
        p = np.exp(scores - highest)
        total = p.sum(1, keepdims=True)
        nats = np.log(total[:, 0]) + highest[:, 0] - true_scores
        gradient = np.einsum("nk,nkf->nf", p / total, signed) - signed[rows, self.truth]
        return float(nats.mean()), gradient.mean(0)

    def _product(self, method: ProjectionMethod) -> Combination:
        """Return the product of a method with the best weights."""
        signed = self._signed(method)
        count = signed.shape[-1]
        bounds = [(0.0, _MAX_WEIGHT)] * count
        result = minimize(lambda w: self._loss(signed, w), np.ones(count), jac=True, method="L-BFGS-B", bounds=bounds)
        base, tuned, untuned = (round(weight, 4) for weight in (*result.x.tolist(), result.x[1].item())[:3])
        if tuned == untuned == 0:  # the base alone, whose temperature is not to be fitted
            base = 1.0
        return Combination(method, base, tuned, untuned)

    def _mixture(self, method: ProjectionMethod) -> Combination:
        """Return the mixture of a method with the best share of the tuned model."""
        log_p, log_q = self._true(method)
        result = minimize_scalar(
            lambda share: float(_mixed(share, log_p, log_q).mean()),
            bounds=(0.0, 1.0),
            method="bounded",
            options={"xatol": 1e-5},
        )
        share = round(float(result.x), 4)
        return Combination(method, round(1 - share, 4), share, 0.0, Form.MIXTURE)


def _mixed(share: float, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Return the nats of tokens in a mixture with this share of q."""
    with np.errstate(divide="ignore"):  # the logarithm of a share of 0
        return -np.logaddexp(np.log1p(-share) + log_p, np.log(share) + log_q)


@dataclass(frozen=True)
class _Block:
    """The features at n positions of one example; see `Features`."""

    features: dict[ProjectionMethod, Tensor]
    log_count: Tensor
    truth: Tensor


@torch.no_grad()
def _blocks(
    bridge: Bridge, example: Example, methods: Sequence[ProjectionMethod], share: float, generator: torch.Generator
) -> list[_Block]:
    """Return the features at a random share of an example's response tokens, where the value source predicts."""
    steering, tokens = bridge.steering, tokenize_scored(example, bridge.vocabulary)
    ids = torch.tensor([tokens.ids[:-1]], device=bridge.device)
    truth = torch.tensor(tokens.ids[tokens.first :], device=bridge.device)
    logits = bridge.base(input_ids=ids, use_cache=False, logits_to_keep=len(truth)).logits[0].float()
    stream = steering.open_stream(1, required_scores(methods))
    positions = stream.advance([stream.pieces(tokens.ids[:-1])], len(truth))
    drawn = (torch.rand(len(truth), generator=generator) < share).tolist()
    chosen = [i for i, position in enumerate(positions) if drawn[i] and position.covers]
    blocks = []
    for part, log_p, features, active in projected_features(
        steering, stream, [positions[i] for i in chosen], logits[chosen], methods
    ):
        at_active = {method: tuple(feature[active] for feature in of_method) for method, of_method in features.items()}
        blocks.append(_keep_tokens(log_p[active], at_active, truth[chosen[part]][active], generator))
    return blocks


def projected_features(
    steering: Steering,
    stream: SourceStream,
    positions: Sequence[Position],
    logits: Tensor,
    methods: Sequence[ProjectionMethod],
) -> Iterator[tuple[slice, Tensor, dict[ProjectionMethod, tuple[Tensor, ...]], Tensor]]:
    """Project a source's predictions by several methods to the features of combinations, a few positions at a time.

    Args:
        steering: The steering whose source predicts.
        stream: A stream of the steering, opened for the scores that the methods need.
        positions: k positions of the stream.
        logits: The base model's logits at these positions, float32 (k, |T|).
        methods: The projection methods.

    Yields:
        The slice of n positions; the base's log-probabilities, (n, |T|); by method, the projected scores, (n, |T|)
        each, in the order of their weights; and where the source makes a prediction, bool (n,).
    """
    of_logit_delta = {method: METHODS[method].of_logit_delta for method in methods}
    predictions = steering.predictions(
        stream,
        positions,
        lambda part, _: logits[part].softmax(-1),
        required_scores(methods),
        lookahead=not all(of_logit_delta.values()),
    )
    for part, of_source in zip(parts_of(len(positions)), predictions, strict=True):
        log_p = logits[part].log_softmax(-1)
        base = BaseDistribution(logits[part], log_p.exp(), of_source.base_on_source_vocab)
        features = {}
        for method in methods:
            names = ("delta",) if of_logit_delta[method] else ("tuned", "untuned")
            projected = tuple(projected_scores(method, steering.projection, base, of_source, names).values())
            features[method] = (
                projected if of_logit_delta[method] else tuple(change.add_(log_p) for change in projected)
            )
        yield part, log_p, features, of_source.active.squeeze(-1) > 0


def required_scores(methods: Sequence[ProjectionMethod]) -> tuple[str, ...]:
    """Return the names of the fields of `Scores` that some methods project."""
    of_logit_delta = any(METHODS[method].of_logit_delta for method in methods)
    return ("delta", "tuned", "untuned") if of_logit_delta else ("tuned", "untuned")


def _keep_tokens(
    log_p: Tensor, features: dict[ProjectionMethod, tuple[Tensor, ...]], truth: Tensor, generator: torch.Generator
) -> _Block:
    """Keep the most likely tokens of features over the whole vocabulary, and drawn ones that stand for the others.

    Args:
        log_p: The base's log-probabilities, (n, |T|).
        features: By method, the projected scores, (n, |T|) each.
        truth: The true tokens, which are always kept, (n,).
        generator: For the tokens that are drawn.
    """
    highest = log_p.clone()
    for method, projected in features.items():
        # A change of logits does not rank tokens by itself, but its sum with the base's log-probabilities does.
        for log_q in [(log_p + projected[0]).log_softmax(-1)] if METHODS[method].of_logit_delta else projected:
            torch.maximum(highest, log_q, out=highest)
    highest.scatter_(-1, truth[:, None], torch.inf)
    n, size = highest.shape
    best = highest.topk(min(_MOST_LIKELY, size)).indices
    drawn = torch.randint(size, (n, _DRAWN), generator=generator).to(best.device)
    is_best = torch.zeros_like(highest, dtype=torch.bool).scatter_(1, best, True).gather(1, drawn)
    log_count = torch.full(drawn.shape, math.log(size / _DRAWN), device=best.device).masked_fill_(is_best, -torch.inf)
    kept = torch.cat([best, drawn], 1)
    return _Block(
        features={
            method: torch.stack([feature.gather(1, kept) for feature in (log_p, *projected)], -1).cpu()
            for method, projected in features.items()
        },
        log_count=torch.cat([torch.zeros(best.shape, device=best.device), log_count], 1).cpu(),
        truth=(best == truth[:, None]).int().argmax(-1).cpu(),
    )
