"""Fits a combination's weights on validation texts: which carry, and how much of each model.

For one carry the loss -log softmax(a f_1 + b f_2 - c f_3)[token] is convex in the weights, so a few steps of
L-BFGS find the best ones. The features f are computed once. Of the 10^5 tokens at each position, the several
hundred likeliest under any feature are kept and their probabilities renormalised among themselves; the weights
need no more, and no evaluation does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination, carried
from vocabridge.examples import Example, tokenize
from vocabridge.progress import Progress, unheard

_SUPPORT = 512  # tokens kept at each position
_POSITIONS_AT_ONCE = 8
_ENOUGH = 1_500  # positions, among prompts and responses; three weights need no more
_LARGEST = 4.0  # a weight beyond this means that the texts are too few


@dataclass(frozen=True)
class Fit:
    """The best weights of one carry.

    Attributes:
        combination: The carry with its weights.
        bits: Bits per response token on the texts it was fitted on, over the kept tokens.
        paper_bits: The same at weights (1, 1, 1).
        positions: How many response tokens that was.
    """

    combination: Combination
    bits: float
    paper_bits: float
    positions: int


def fit_combination(
    bridge: Bridge,
    examples: Sequence[Example],
    *,
    carries: Sequence[Carry] = tuple(Carry),
    progress: Progress = unheard,
) -> list[Fit]:
    """Fits every carry on the responses of some examples.

    Args:
        bridge: The bridge; its own combination is not looked at and not changed.
        examples: Texts that are not in the test data.
        carries: Which to fit.
        progress: Told of every example.

    Returns:
        One fit a carry, the best first.
    """
    generator = torch.Generator().manual_seed(0)
    share = min(1.0, _ENOUGH / sum(len(tokenize(e, bridge.vocabulary).ids) for e in examples))
    parts: list[_Part] = []
    for number, example in enumerate(examples, start=1):
        parts += _parts(bridge, example, carries, share, generator)
        progress(number, len(examples), "fitting the weights")
    truth = torch.cat([part.truth for part in parts]).numpy()
    fits = [_fit(carry, torch.cat([part.features[carry] for part in parts]).numpy(), truth) for carry in carries]
    return sorted(fits, key=lambda fit: fit.bits)


@dataclass(frozen=True)
class _Part:
    """A block of n positions, over the k tokens kept at each.

    Attributes:
        features: By carry, (n, k, features).
        truth: Which of the k is the response's token, (n,).
    """

    features: dict[Carry, Tensor]
    truth: Tensor


@torch.no_grad()
def _parts(
    bridge: Bridge, example: Example, carries: Sequence[Carry], share: float, generator: torch.Generator
) -> list[_Part]:
    """The features at a random share of an example's response tokens, where the value source has a say."""
    tokens = tokenize(example, bridge.vocabulary)
    ids = torch.tensor([tokens.ids[:-1]], device=bridge.device)
    truth = torch.tensor(tokens.ids[tokens.first :], device=bridge.device)
    logits = bridge.base(input_ids=ids, use_cache=False, logits_to_keep=len(truth)).logits[0].float()
    needs = {"delta": any(carry.of_delta for carry in carries), "tuned": True, "untuned": True}
    scores, speaks = bridge.scores(ids, None, len(truth), needs, None)
    drawn = (torch.rand(len(truth), generator=generator) < share).to(bridge.device)
    chosen = (drawn & speaks[0].to(bridge.device)).nonzero().flatten()
    parts = []
    for positions in chosen.split(_POSITIONS_AT_ONCE):
        base, said = logits[positions], scores.at(positions, logits.device)
        features = {
            carry: torch.stack([base.log_softmax(-1), *_present(carried(carry, bridge.projection, base, said))], -1)
            for carry in carries
        }
        parts.append(_kept(features, truth[positions]))
    return parts


def _present(features: Sequence[Tensor | None]) -> list[Tensor]:
    return [feature for feature in features if feature is not None]


def _kept(features: dict[Carry, Tensor], truth: Tensor) -> _Part:
    """Keeps the likeliest tokens of features (n, |T|, features), the true one among them."""
    # A change of logits is no score by itself; its sum with the base's is.
    scores = [f.sum(-1) if carry.of_delta else f.amax(-1) for carry, f in features.items()]
    highest = torch.stack([score.log_softmax(-1) for score in scores]).amax(0)
    kept = highest.scatter(-1, truth[:, None], torch.inf).topk(min(_SUPPORT, highest.shape[-1])).indices
    return _Part(
        features={
            carry: f.gather(1, kept[..., None].expand(-1, -1, f.shape[-1])).cpu() for carry, f in features.items()
        },
        truth=(kept == truth[:, None]).int().argmax(-1).cpu(),
    )


def _fit(carry: Carry, features: np.ndarray, truth: np.ndarray) -> Fit:
    rows = np.arange(len(truth))
    signs = np.array([1.0, 1.0] if carry.of_delta else [1.0, 1.0, -1.0])
    signed = features.astype(np.float64) * signs

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = signed @ weights
        scores -= scores.max(1, keepdims=True)
        p = np.exp(scores)
        total = p.sum(1, keepdims=True)
        nats = np.log(total[:, 0]) - scores[rows, truth]
        gradient = np.einsum("nk,nkf->nf", p / total, signed) - signed[rows, truth]
        return float(nats.mean()), gradient.mean(0)

    start = np.ones(len(signs))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, _LARGEST)] * len(signs))
    base, tuned, untuned = (*found.x.tolist(), found.x[1].item())[:3]
    return Fit(
        combination=Combination(carry, round(base, 4), round(tuned, 4), round(untuned, 4)),
        bits=float(found.fun) / np.log(2),
        paper_bits=loss(start)[0] / np.log(2),
        positions=len(truth),
    )
