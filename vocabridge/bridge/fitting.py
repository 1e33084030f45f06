"""Fits a combination's weights on validation texts: which carry, which form, and how much of each model.

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
from vocabridge.models.examples import Example, tokenize
from vocabridge.models.value_source import Scores
from vocabridge.options import Form, ProjectionMethod
from vocabridge.projection.combination import Combination, carried
from vocabridge.projection.source_predictions import Said
from vocabridge.utils.progress import Progress, no_progress

_LIKELIEST = 512  # tokens kept at each position
_DRAWN = 128  # tokens drawn at each position to stand for the others
_ENOUGH = 1_500  # positions, among prompts and responses; three weights need no more
_LARGEST = 4.0  # a weight beyond this means that the texts are too few


@dataclass(frozen=True)
class Fit:
    """A combination, judged on validation texts.

    Attributes:
        combination: The carry and the form with their weights.
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
    carries: Sequence[ProjectionMethod] = tuple(ProjectionMethod),
    progress: Progress = no_progress,
) -> list[Fit]:
    """Fits every carry, in every form that it has, on the responses of some examples.

    Args:
        bridge: The bridge; its own combination is not looked at and not changed.
        examples: Texts that are not in the test data.
        carries: Which to fit.
        progress: Told of every example.

    Returns:
        One fit a carry and form, the best first.
    """
    features = Features.of(bridge, examples, carries, progress=progress)
    return sorted(map(features.judge, features.fitted()), key=lambda fit: fit.bits)


@dataclass(frozen=True)
class Features:
    """What combinations are made of at n response tokens, over the k tokens kept at each.

    Attributes:
        by_carry: What each carry's weights multiply, signs aside, (n, k, weights); the base's log-probabilities first.
        stands_for: Logarithm of how many tokens each of the k stands for, (n, k).
        truth: Which of the k is the response's token, (n,).
    """

    by_carry: dict[ProjectionMethod, np.ndarray]
    stands_for: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(
        cls,
        bridge: Bridge,
        examples: Sequence[Example],
        carries: Sequence[ProjectionMethod],
        *,
        progress: Progress = no_progress,
    ) -> Features:
        """Runs the models on some texts; arguments as for `fit_combination`."""
        generator = torch.Generator().manual_seed(0)
        share = min(1.0, _ENOUGH / sum(len(tokenize(e, bridge.vocabulary).ids) for e in examples))
        blocks: list[_Block] = []
        for number, example in enumerate(examples, start=1):
            blocks += _blocks(bridge, example, carries, share, generator)
            progress(number, len(examples), "fitting the weights")
        return cls(
            {carry: torch.cat([block.features[carry] for block in blocks]).numpy() for carry in carries},
            torch.cat([block.stands_for for block in blocks]).numpy(),
            torch.cat([block.truth for block in blocks]).numpy(),
        )

    def fitted(self) -> list[Combination]:
        """Every carry in every form that it has, with the best weights."""
        found = []
        for carry in self.by_carry:
            found.append(self._product(carry))
            if not carry.of_logit_delta:
                found.append(self._mixture(carry))
        return found

    def bits(self, combination: Combination, strength: float = 1.0) -> float:
        """What a combination costs at a strength, in bits a token."""
        one = combination.at(strength)
        if one.form is Form.MIXTURE:
            return float(_mixed(one.tuned, *self._true(one.carry)).mean()) / math.log(2)
        weights = [one.base, one.tuned] + ([] if one.carry.of_logit_delta else [one.untuned])
        return self._loss(self._signed(one.carry), np.array(weights))[0] / math.log(2)

    def judge(self, combination: Combination, strengths: Sequence[float] = (1.0,)) -> Fit:
        """A combination at the best of some strengths."""
        bits, strength = min((self.bits(combination, strength), strength) for strength in strengths)
        product = combination.form is Form.PRODUCT
        paper = self.bits(Combination(combination.carry)) if product else None
        return Fit(combination, strength, bits, paper, len(self.truth))

    def _signed(self, carry: ProjectionMethod) -> np.ndarray:
        """The features that a product adds up, (n, k, weights)."""
        return self.by_carry[carry].astype(np.float64) * ([1.0, 1.0] if carry.of_logit_delta else [1.0, 1.0, -1.0])

    def _true(self, carry: ProjectionMethod) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of the true tokens under the base and the tuned donor, (n,) each."""
        log_p, log_q = self.by_carry[carry][np.arange(len(self.truth)), self.truth, :2].T
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

    def _product(self, carry: ProjectionMethod) -> Combination:
        """With the best weights."""
        signed = self._signed(carry)
        count = signed.shape[-1]
        bounds = [(0.0, _LARGEST)] * count
        found = minimize(lambda w: self._loss(signed, w), np.ones(count), jac=True, method="L-BFGS-B", bounds=bounds)
        base, tuned, untuned = (round(weight, 4) for weight in (*found.x.tolist(), found.x[1].item())[:3])
        if tuned == untuned == 0:  # the base alone: its temperature is not what is fitted here
            base = 1.0
        return Combination(carry, base, tuned, untuned)

    def _mixture(self, carry: ProjectionMethod) -> Combination:
        """With the donor's best share."""
        log_p, log_q = self._true(carry)
        found = minimize_scalar(
            lambda share: float(_mixed(share, log_p, log_q).mean()),
            bounds=(0.0, 1.0),
            method="bounded",
            options={"xatol": 1e-5},
        )
        share = round(float(found.x), 4)
        return Combination(carry, round(1 - share, 4), share, 0.0, Form.MIXTURE)


def _mixed(share: float, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Nats of tokens in a mixture with so much of q."""
    with np.errstate(divide="ignore"):  # the logarithm of no share
        return -np.logaddexp(np.log1p(-share) + log_p, np.log(share) + log_q)


@dataclass(frozen=True)
class _Block:
    """A block of n positions, over the k tokens kept at each.

    Attributes:
        features: By carry, (n, k, features).
        stands_for: Logarithm of how many tokens each of the k stands for, (n, k).
        truth: Which of the k is the response's token, (n,).
    """

    features: dict[ProjectionMethod, Tensor]
    stands_for: Tensor
    truth: Tensor


@torch.no_grad()
def _blocks(
    bridge: Bridge, example: Example, carries: Sequence[ProjectionMethod], share: float, generator: torch.Generator
) -> list[_Block]:
    """The features at a random share of an example's response tokens, where the value source has a say."""
    steering, tokens = bridge.steering, tokenize(example, bridge.vocabulary)
    ids = torch.tensor([tokens.ids[:-1]], device=bridge.device)
    truth = torch.tensor(tokens.ids[tokens.first :], device=bridge.device)
    logits = bridge.base(input_ids=ids, use_cache=False, logits_to_keep=len(truth)).logits[0].float()
    said = hear(steering, tokens.ids[:-1], len(truth), carries)
    drawn = (torch.rand(len(truth), generator=generator) < share).tolist()
    chosen = [i for i, position in enumerate(said.positions) if drawn[i] and position.asked]
    blocks = []
    for part, log_p, features, speaks in carried_features(steering, said.at(chosen), logits[chosen], carries):
        spoken = {carry: tuple(feature[speaks] for feature in several) for carry, several in features.items()}
        blocks.append(_kept(log_p[speaks], spoken, truth[chosen[part]][speaks], generator))
    return blocks


def hear(steering: Steering, ids: Sequence[int], keep: int, carries: Sequence[ProjectionMethod]) -> Said:
    """What the source says after each of the last `keep` of some ids of the base's, for some carries."""
    return steering.reading(1, _wanted(carries)).read([steering.pieces(ids)], keep)


def carried_features(
    steering: Steering, said: Said, logits: Tensor, carries: Sequence[ProjectionMethod]
) -> Iterator[tuple[slice, Tensor, dict[ProjectionMethod, tuple[Tensor, ...]], Tensor]]:
    """What a combination weighs, a few positions at a time.

    Args:
        steering: Carries what its source says.
        said: What it says at k positions.
        logits: The base model's there, float32 (k, |T|).
        carries: By which it is carried.

    Yields:
        Which n of the positions; the base's log-probabilities there, (n, |T|); what each carry makes of the source's
        scores, (n, |T|) each, in the order of their weights; and where the source has a say, bool (n,).
    """
    # Looking ahead is for carries of distributions; of several they share what the first of these asked.
    carry = next(
        (carry for carry in (ProjectionMethod.INFORMED, ProjectionMethod.STATIC) if carry in carries),
        ProjectionMethod.LINEAR,
    )
    wanted = _wanted(carries)
    steering.look(said, (logits[part].softmax(-1) for part in said.parts), carry, wanted)
    for part in said.parts:
        log_p = logits[part].log_softmax(-1)
        scores, speaks = steering.scores(said, part, wanted)
        p_base = log_p.exp()
        features = {}
        for c in carries:
            changes = carried(c, steering.projection, _used(c, scores), logits[part], p_base, scores)
            features[c] = changes if c.of_logit_delta else tuple(change.add_(log_p) for change in changes)
        yield part, log_p, features, speaks.squeeze(-1) > 0


def _wanted(carries: Sequence[ProjectionMethod]) -> tuple[str, ...]:
    """The scores that carries carry, as fields of `Scores`."""
    return ("delta", "tuned", "untuned") if any(carry.of_logit_delta for carry in carries) else ("tuned", "untuned")


def _used(carry: ProjectionMethod, scores: Scores) -> list[Tensor]:
    """The scores that a carry carries, in the order of their weights."""
    used = [scores.delta] if carry.of_logit_delta else [scores.tuned, scores.untuned]
    return [score for score in used if score is not None]


def _kept(
    log_p: Tensor, features: dict[ProjectionMethod, tuple[Tensor, ...]], truth: Tensor, generator: torch.Generator
) -> _Block:
    """Keeps of the base's log probabilities and of what is carried, all (n, |T|), the likeliest tokens and some others.

    The true token is among the likeliest; the others are drawn and stand for all that are not kept.
    """
    highest = log_p.clone()
    for carry, several in features.items():
        # A change of logits is no score by itself; its sum with the base's is.
        for likely in [(log_p + several[0]).log_softmax(-1)] if carry.of_logit_delta else several:
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
            carry: torch.stack([feature.gather(1, kept) for feature in (log_p, *several)], -1).cpu()
            for carry, several in features.items()
        },
        stands_for=torch.cat([torch.zeros(best.shape, device=best.device), drawn_for], 1).cpu(),
        truth=(best == truth[:, None]).int().argmax(-1).cpu(),
    )
