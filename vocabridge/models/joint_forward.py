"""Running a value network beside its source model: what the first layer of the value network reads at position t.

    residual    E(x_t)                              the token, which the source model reads, too
    cascade+    E(x_t) + sum_w p_source,t(w) E(w)   the token and the source model's prediction after it
    cascade     sum_w p_source,t(w) E(w)            the source model's prediction alone

E is the value network's own embedding, and p_source,t = softmax(z_source,t) the source model's prediction after reading
x_t; the paper calls the source model the base. In all three, z_post = z_source + z_delta. Source: Lu et al., arXiv
2410.21027, as in its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vocabridge.options import Scheme

_AT_ONCE = 256
"""Positions whose logits are turned into probabilities at a time, to bound memory: each is a float32 row of |S|."""


def input_embeddings(
    scheme: Scheme, embedding: nn.Embedding, ids: Tensor, predictions: Tensor, unembed: nn.Module | None = None
) -> Tensor:
    """Return the input embeddings of a cascade, (batch, n, d).

    Gradients flow to the embedding, and not to the source model.

    Args:
        scheme: CASCADE or CASCADE_PLUS.
        embedding: E, (|S|, d). Its `embed_scale`, if it has one, multiplies the expected embeddings, too.
        ids: Tokens x, (batch, n).
        predictions: The source model's logits after each token, (batch, n, |S|).
        unembed: If given, `predictions` holds hidden states instead, which this module turns into logits.
    """
    scale = getattr(embedding, "embed_scale", 1.0)
    rows = []
    for part in predictions.to(ids.device).flatten(0, 1).split(_AT_ONCE):
        with torch.no_grad():
            logits = part if unembed is None else unembed(part)
            p = logits.float().softmax(-1).to(embedding.weight.dtype)
        rows.append(p @ embedding.weight)
    expected = (torch.cat(rows) * scale).to(embedding.weight.dtype).unflatten(0, ids.shape)
    return embedding(ids) + expected if scheme is Scheme.CASCADE_PLUS else expected


def run(
    models: Mapping[str, nn.Module], inputs: Callable[[str], Mapping[str, Any]], keep: int | Tensor
) -> dict[str, Tensor]:
    """Run models on the same tokens, in an order in which each finds the logits that it takes as input.

    Args:
        models: The models by name. A model may have an attribute `takes_logits_of`: the name of another model, whose
            logits (batch, n, |S|) it gets as the argument `taken_logits`, or None.
        inputs: Returns the other arguments of a model, given its name.
        keep: The last so many positions (0: all), or the indices of positions.

    Returns:
        The logits of each model at the kept positions, (batch, k, |S|).
    """
    takes: dict[str, str | None] = {name: getattr(model, "takes_logits_of", None) for name, model in models.items()}
    kept = slice(-keep, None) if isinstance(keep, int) else keep
    logits: dict[str, Tensor] = {}
    for name in sorted(models, key=lambda name: takes[name] is not None):
        other = takes[name]
        taken = {} if other is None else {"taken_logits": logits[other]}
        logits_to_keep = 0 if name in takes.values() else keep
        logits[name] = models[name](**inputs(name), **taken, logits_to_keep=logits_to_keep).logits
    return {name: tensor[:, kept] if name in takes.values() else tensor for name, tensor in logits.items()}
