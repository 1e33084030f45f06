"""Attention of many queries a key head, without copying the keys and values for each of them.

    (batch, groups * heads, q, d) queries  ->  (batch, heads, groups * q, d),   mask (batch, 1, q, n) once a group

In grouped-query attention several query heads share the keys and values of one head. With a mask and more than one new
token transformers repeats keys and values for every query head, at each layer and step; here the queries that share
them stand below each other instead, and the result is the same. It is the mask that is repeated
then; where that is larger than the keys and values, as for a long prompt, transformers' way is taken.
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
    """Has models attend so while they are given masks of all heads; those that do not use "sdpa" stay as they are."""
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
    """An attention function of transformers: (batch, heads, q, d) queries in, (batch, q, heads, d) out."""
    batch, heads, q, d = query.shape
    groups = heads // key.shape[1]
    more = any(kwargs.get(name) is not None for name in ("position_bias", "softcap"))
    long = q > 2 * key.shape[1] * d  # groups * q * n of a mask, 2 * heads * n * d of keys and values
    if groups == 1 or attention_mask is None or attention_mask.shape[1] != 1 or more or long:
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
