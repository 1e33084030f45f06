"""How a value network is connected to its source model: what its first layer reads at position t.

    residual    E(x_t)                              the same tokens as the source model
    cascade+    E(x_t) + sum_w p_base,t(w) E(w)     and what the source model expects after them
    cascade     sum_w p_base,t(w) E(w)              what the source model expects, alone

E is the value network's own embedding, and p_base,t = softmax(z_base,t) the base's prediction after reading x_t. In
all of them z_post = z_base + z_delta. Source: Lu et al., arXiv 2410.21027, as in its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vocabridge.options import Scheme

_AT_ONCE = 256
"""Positions whose predictions are made into probabilities at the same time: float32 rows of |S|."""


def input_embeddings(
    scheme: Scheme, embedding: nn.Embedding, ids: Tensor, said: Tensor, unembed: nn.Module | None = None
) -> Tensor:
    """What the first layer of a cascade reads.

    Gradients go to the embedding, not to the base.

    Args:
        scheme: A cascade.
        embedding: E, (|S|, d); a scale that it multiplies embeddings with holds for what is expected, too.
        ids: Tokens x, (batch, n).
        said: The base's logits after each, (batch, n, |S|).
        unembed: In place of logits, `said` is what this makes into logits, such as hidden states.

    Returns:
        Input embeddings, (batch, n, d).
    """
    scale = getattr(embedding, "embed_scale", 1.0)
    rows = []
    for part in said.to(ids.device).flatten(0, 1).split(_AT_ONCE):
        with torch.no_grad():
            logits = part if unembed is None else unembed(part)
            p = logits.float().softmax(-1).to(embedding.weight.dtype)
        rows.append(p @ embedding.weight)
    expected = (torch.cat(rows) * scale).to(embedding.weight.dtype).unflatten(0, ids.shape)
    return embedding(ids) + expected if scheme is Scheme.CASCADE_PLUS else expected


def run(
    models: Mapping[str, nn.Module], inputs: Callable[[str], Mapping[str, Any]], keep: int | Tensor
) -> dict[str, Tensor]:
    """Runs models that read the same tokens; one that takes another's logits after that other.

    Args:
        models: The models by name. One may have an attribute `takes_logits_of`, the name of another or None; it is
            then given that one's logits (batch, n, |S|) as `taken_logits`.
        inputs: The other arguments of a model, by its name.
        keep: The last so many positions (0: all), or these.

    Returns:
        The logits of each at the positions to keep, (batch, k, |S|).
    """
    takes: dict[str, str | None] = {name: getattr(model, "takes_logits_of", None) for name, model in models.items()}
    kept = slice(-keep, None) if isinstance(keep, int) else keep
    logits: dict[str, Tensor] = {}
    for name in sorted(models, key=lambda name: takes[name] is not None):
        other = takes[name]
        taken = {} if other is None else {"taken_logits": logits[other]}
        here = 0 if name in takes.values() else keep
        logits[name] = models[name](**inputs(name), **taken, logits_to_keep=here).logits
    return {name: said[:, kept] if name in takes.values() else said for name, said in logits.items()}
