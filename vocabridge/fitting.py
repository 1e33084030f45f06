"""Fits a combination's weights on validation texts: which carry, and how much of each model.

For one carry the loss -log softmax(a f_1 + b f_2 - c f_3)[token] is convex in the weights, so a few steps of
L-BFGS find the best ones. The features f are computed once. Of the 10^5 tokens at each position, the several
hundred likeliest under any feature are kept and their probabilities renormalised among themselves; the weights
need no more, and no evaluation does this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination, carried
from vocabridge.examples import Example, tokenize

_SUPPORT = 512  # tokens kept at each position
_POSITIONS_AT_ONCE = 8
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
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
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
    kept: dict[Carry, list[tuple[Tensor, Tensor]]] = {carry: [] for carry in carries}
    for number, example in enumerate(examples, start=1):
        for carry, features, truth in _features(bridge, example, carries):
            kept[carry].append(_supported(features, truth))
        progress(number, len(examples), "fitting the weights")
    fits = [
        _fit(carry, torch.cat([f for f, _ in parts]).numpy(), torch.cat([t for _, t in parts]).numpy())
        for carry, parts in kept.items()
    ]
    return sorted(fits, key=lambda fit: fit.bits)


@torch.no_grad()
def _features(bridge: Bridge, example: Example, carries: Sequence[Carry]) -> list[tuple[Carry, Tensor, Tensor]]:
    """For every carry and block of positions: features (n, features, |T|) and the response's tokens (n,)."""
    tokens = tokenize(example, bridge.vocabulary)
    ids = torch.tensor([tokens.ids[:-1]], device=bridge.device)
    truth = torch.tensor(tokens.ids[tokens.first :], device=bridge.device)
    logits = bridge.base(input_ids=ids, use_cache=False, logits_to_keep=len(truth)).logits[0].float()
    needs = {"delta": any(c.of_delta for c in carries), "tuned": True, "untuned": True}
    scores, speaks = bridge.scores(ids, None, len(truth), needs, None)
    result = []
    for start in range(0, len(truth), _POSITIONS_AT_ONCE):
        part = slice(start, start + _POSITIONS_AT_ONCE)
        said = speaks[0, part].to(logits.device)  # elsewhere the weights change nothing
        for carry in carries:
            parts = carried(carry, bridge.projection, logits[part], scores.at(part, logits.device))
            features = torch.stack([logits[part].log_softmax(-1), *(p for p in parts if p is not None)], dim=1)
            result.append((carry, features[said], truth[part][said]))
    return result


def _supported(features: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps the likeliest tokens: features (n, k, features) and the index of the true one among them (n,)."""
    size = min(_SUPPORT, features.shape[-1])
    combined = features.cumsum(1).amax(1)  # a change of logits is no score by itself, its sum with the base's is
    likeliest = torch.maximum(combined, features.amax(1)).scatter(-1, truth[:, None], torch.inf).topk(size).indices
    kept = features.gather(-1, likeliest[:, None].expand(-1, features.shape[1], -1)).transpose(1, 2)
    return kept.cpu(), (likeliest == truth[:, None]).int().argmax(-1).cpu()


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
