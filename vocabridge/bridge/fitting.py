"""Fits a combination's weights on validation texts: which method, which form, and how much of each model.

    product   -log softmax(a f_1 + b f_2 - c f_3)[token]     features f: logits, or logarithms of distributions
    mixture   -log((1 - s) p + s q)[token]                   p, q: probabilities of the token

Both are convex in the weights, so a few steps of L-BFGS, or of a search on a line, find the best ones. The features
are computed once, and of them any weights at any strength are judged. A mixture needs those of the true token only. A
product needs its sum over the 10^5 tokens at each position: of these the several hundred likeliest under any feature
are kept, and a few others, drawn at random, stand for the rest (importance sampling), so that the bits of both forms
can be compared.
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

_LIKELIEST = 512  # tokens kept at each position
_DRAWN = 128  # tokens drawn at each position to stand for the others
_ENOUGH = 1_500  # positions, among prompts and responses; three weights need no more
_LARGEST = 4.0  # a weight beyond this means that the texts are too few


@dataclass(frozen=True)
class Fit:
    """A combination, judged on validation texts.

    Attributes:
        combination: The method and the form with their weights.
        strength: At which it is used, alpha.
        bits: Bits per response token so.
        paper_bits: The same at the paper's weights, (1, 1, 1), and strength 1; None for a mixture.
        positions: How many response tokens that was.
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
) -> list[Fit]:
    """Fits every method, in every form that it has, on the responses of some examples.

    Args:
        bridge: The bridge; its own combination is not looked at and not changed.
        examples: Texts that are not in the test data.
        methods: Which to fit.
        progress: Told of every example.

    Returns:
        One fit a method and form, the best first.
    """
    features = Features.of(bridge, examples, methods, progress=progress)
    return sorted(map(features.judge, features.fitted()), key=lambda fit: fit.bits)


@dataclass(frozen=True)
class Features:
    """What combinations are made of at n response tokens, over the k tokens kept at each.

    Attributes:
        by_method: What each method's weights multiply, signs aside, (n, k, weights); the base's log-probabilities
            first.
        stands_for: Logarithm of how many tokens each of the k stands for, (n, k).
        truth: Which of the k is the response's token, (n,).
    """

    by_method: dict[ProjectionMethod, np.ndarray]
    stands_for: np.ndarray
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
        """Runs the models on some texts; arguments as for `fit_combination`."""
        generator = torch.Generator().manual_seed(0)
        share = min(1.0, _ENOUGH / sum(len(tokenize_scored(e, bridge.vocabulary).ids) for e in examples))
        blocks: list[_Block] = []
        for number, example in enumerate(examples, start=1):
            blocks += _blocks(bridge, example, methods, share, generator)
            progress(number, len(examples), "fitting the weights")
        return cls(
            {method: torch.cat([block.features[method] for block in blocks]).numpy() for method in methods},
            torch.cat([block.stands_for for block in blocks]).numpy(),
            torch.cat([block.truth for block in blocks]).numpy(),
        )

    def fitted(self) -> list[Combination]:
        """Every method in every form that it has, with the best weights."""
        found = []
        for method in self.by_method:
            found.append(self._product(method))
            if not METHODS[method].of_logit_delta:
                found.append(self._mixture(method))
        return found

    def bits(self, combination: Combination, strength: float = 1.0) -> float:
        """What a combination costs at a strength, in bits a token."""
        one = combination.at(strength)
        if one.form is Form.MIXTURE:
            return float(_mixed(one.tuned_weight, *self._true(one.method)).mean()) / math.log(2)
        weights = [one.base_weight, one.tuned_weight] + ([] if one.of_logit_delta else [one.untuned_weight])
        return self._loss(self._signed(one.method), np.array(weights))[0] / math.log(2)

    def judge(self, combination: Combination, strengths: Sequence[float] = (1.0,)) -> Fit:
        """A combination at the best of some strengths."""
        bits, strength = min((self.bits(combination, strength), strength) for strength in strengths)
        product = combination.form is Form.PRODUCT
        paper = self.bits(Combination(combination.method)) if product else None
        return Fit(combination, strength, bits, paper, len(self.truth))

    def _signed(self, method: ProjectionMethod) -> np.ndarray:
        """The features that a product adds up, (n, k, weights)."""
        return self.by_method[method].astype(np.float64) * (
            [1.0, 1.0] if METHODS[method].of_logit_delta else [1.0, 1.0, -1.0]
        )

    def _true(self, method: ProjectionMethod) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of the true tokens under the base and the tuned donor, (n,) each."""
        log_p, log_q = self.by_method[method][np.arange(len(self.truth)), self.truth, :2].T
        return log_p, log_q

    def _loss(self, signed: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Nats a token of a product, and their gradient in the weights."""
        rows = np.arange(len(self.truth))
        scores = signed @ weights
        said = scores[rows, self.truth]
        scores += self.stands_for
        highest = scores.max(1, keepdims=True)
        p = np.exp(scores - highest)
        total = p.sum(1, keepdims=True)
        nats = np.log(total[:, 0]) + highest[:, 0] - said
        gradient = np.einsum("nk,nkf->nf", p / total, signed) - signed[rows, self.truth]
        return float(nats.mean()), gradient.mean(0)

    def _product(self, method: ProjectionMethod) -> Combination:
        """With the best weights."""
        signed = self._signed(method)
        count = signed.shape[-1]
        bounds = [(0.0, _LARGEST)] * count
        found = minimize(lambda w: self._loss(signed, w), np.ones(count), jac=True, method="L-BFGS-B", bounds=bounds)
        base, tuned, untuned = (round(weight, 4) for weight in (*found.x.tolist(), found.x[1].item())[:3])
        if tuned == untuned == 0:  # the base alone: its temperature is not what is fitted here
            base = 1.0
        return Combination(method, base, tuned, untuned)

    def _mixture(self, method: ProjectionMethod) -> Combination:
        """With the donor's best share."""
        log_p, log_q = self._true(method)
        found = minimize_scalar(
            lambda share: float(_mixed(share, log_p, log_q).mean()),
            bounds=(0.0, 1.0),
            method="bounded",
            options={"xatol": 1e-5},
        )
        share = round(float(found.x), 4)
        return Combination(method, round(1 - share, 4), share, 0.0, Form.MIXTURE)


def _mixed(share: float, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Nats of tokens in a mixture with so much of q."""
    with np.errstate(divide="ignore"):  # the logarithm of no share
        return -np.logaddexp(np.log1p(-share) + log_p, np.log(share) + log_q)


@dataclass(frozen=True)
class _Block:
    """A block of n positions, over the k tokens kept at each.

    Attributes:
        features: By method, (n, k, features).
        stands_for: Logarithm of how many tokens each of the k stands for, (n, k).
        truth: Which of the k is the response's token, (n,).
    """

    features: dict[ProjectionMethod, Tensor]
    stands_for: Tensor
    truth: Tensor


@torch.no_grad()
def _blocks(
    bridge: Bridge, example: Example, methods: Sequence[ProjectionMethod], share: float, generator: torch.Generator
) -> list[_Block]:
    """The features at a random share of an example's response tokens, where the value source has a say."""
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
        kept = {method: tuple(feature[active] for feature in of_method) for method, of_method in features.items()}
        blocks.append(_kept(log_p[active], kept, truth[chosen[part]][active], generator))
    return blocks


def projected_features(
    steering: Steering,
    stream: SourceStream,
    positions: Sequence[Position],
    logits: Tensor,
    methods: Sequence[ProjectionMethod],
) -> Iterator[tuple[slice, Tensor, dict[ProjectionMethod, tuple[Tensor, ...]], Tensor]]:
    """Project a source's predictions by several methods: what a combination weighs, a few positions at a time.

    Args:
        steering: Projects its source's predictions.
        stream: A stream of it, opened for the scores that the methods need.
        positions: k positions of the stream.
        logits: The base model's there, float32 (k, |T|).
        methods: The methods.

    Yields:
        Which n of the positions; the base's log-probabilities there, (n, |T|); what each method makes of the source's
        scores, (n, |T|) each, in the order of their weights; and where the source makes a prediction, bool (n,).
    """
    of_logit_delta = {method: METHODS[method].of_logit_delta for method in methods}
    predictions = steering.predictions(
        stream,
        positions,
        lambda part, _: logits[part].softmax(-1),
        required_scores(methods),
        lookahead=not all(of_logit_delta.values()),
    )
    for part, predicted in zip(parts_of(len(positions)), predictions, strict=True):
        log_p = logits[part].log_softmax(-1)
        base = BaseDistribution(logits[part], log_p.exp(), predicted.base_on_source_vocab)
        features = {}
        for method in methods:
            names = ("delta",) if of_logit_delta[method] else ("tuned", "untuned")
            projected = tuple(projected_scores(method, steering.projection, base, predicted, names).values())
            features[method] = (
                projected if of_logit_delta[method] else tuple(change.add_(log_p) for change in projected)
            )
        yield part, log_p, features, predicted.active.squeeze(-1) > 0


def required_scores(methods: Sequence[ProjectionMethod]) -> tuple[str, ...]:
    """Return the fields of `Scores` that some methods project."""
    of_logit_delta = any(METHODS[method].of_logit_delta for method in methods)
    return ("delta", "tuned", "untuned") if of_logit_delta else ("tuned", "untuned")


def _kept(
    log_p: Tensor, features: dict[ProjectionMethod, tuple[Tensor, ...]], truth: Tensor, generator: torch.Generator
) -> _Block:
    """Keep of the base's log-probabilities and of what is projected, all (n, |T|), the likeliest tokens and some more.

    The true token is among the likeliest; the others are drawn and stand for all that are not kept.
    """
    highest = log_p.clone()
    for method, several in features.items():
        # A change of logits is no score by itself; its sum with the base's is.
        for likely in [(log_p + several[0]).log_softmax(-1)] if METHODS[method].of_logit_delta else several:
            torch.maximum(highest, likely, out=highest)
    highest.scatter_(-1, truth[:, None], torch.inf)
    n, size = highest.shape
    best = highest.topk(min(_LIKELIEST, size)).indices
    drawn = torch.randint(size, (n, _DRAWN), generator=generator).to(best.device)
    known = torch.zeros_like(highest, dtype=torch.bool).scatter_(1, best, True).gather(1, drawn)
    drawn_for = torch.full(drawn.shape, math.log(size / _DRAWN), device=best.device).masked_fill_(known, -torch.inf)
    kept = torch.cat([best, drawn], 1)
    return _Block(
        features={
            method: torch.stack([feature.gather(1, kept) for feature in (log_p, *several)], -1).cpu()
            for method, several in features.items()
        },
        stands_for=torch.cat([torch.zeros(best.shape, device=best.device), drawn_for], 1).cpu(),
        truth=(best == truth[:, None]).int().argmax(-1).cpu(),
    )
