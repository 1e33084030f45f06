"""Grouped-query attention with a mask, without a copy of the keys and values for each query head.

    queries (batch, groups * heads, q, d)  ->  (batch, heads, groups * q, d)
    mask    (batch, 1, q, n)               ->  (batch, 1, groups * q, n)

In grouped-query attention several query heads share the keys and values of one head. With a mask and more than one new
token, transformers repeats the keys and values for every query head, in each layer and step. Here the queries that
share a head are concatenated instead, which gives the same result but repeats the mask. If the mask is larger than the
keys and values, as for a long prompt, transformers' own function is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "vocabridge_grouped"


@contextmanager
def grouped_attention(models: Iterable[nn.Module]) -> Iterator[None]:
    """Let models use this attention inside the context, where masks are the same for all heads.

    Models whose attention implementation is not "sdpa" do not change.
    """
    configs = [cast(Any, model).config.get_text_config(decoder=True) for model in models]
    changed = [config for config in configs if config._attn_implementation == "sdpa"]
    try:
        for config in changed:
            config._attn_implementation = _NAME
        yield
    finally:
        for config in changed:
            config._attn_implementation = "sdpa"


def _grouped(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Compute attention, as a function of transformers' `AttentionInterface`.

    Queries are (batch, heads, q, d), and the result is (batch, q, heads, d).
    """
    batch, heads, q, d = query.shape
    groups = heads // key.shape[1]
    has_other_terms = any(kwargs.get(name) is not None for name in ("position_bias", "softcap"))
    is_mask_larger = q > 2 * key.shape[1] * d  # a mask has groups * q * n numbers, keys and values 2 * heads * n * d
    if groups == 1 or attention_mask is None or attention_mask.shape[1] != 1 or has_other_terms or is_mask_larger:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, heads // groups, groups * q, d),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        scale=kwargs.get("scaling"),
    )
    return out.reshape(batch, heads, q, value.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _grouped)
