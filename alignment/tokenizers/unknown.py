"""Tokenizers without an unknown token: what they cannot spell is left out, as a BPE without one leaves it out.

The tokenizers library stops at such a text, and with it at all texts of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import Unigram

_SPELLING = "\ufffeunknown {}"
"""In no text: U+FFFE is no character."""


def unk_id(spec: Mapping[str, Any]) -> int | None:
    """Return the id that a tokenizer emits for what it cannot spell; None if there is none.

    Args:
        spec: The tokenizer's JSON.
    """
    model = spec["model"]
    if "unk_id" in model:  # Unigram
        return None if model["unk_id"] is None else int(model["unk_id"])
    token = model.get("unk_token")
    if token is None:
        return None
    added = {entry["content"]: int(entry["id"]) for entry in spec["added_tokens"]}
    found = model["vocab"].get(token, added.get(token))
    return None if found is None else int(found)


def may_lack_unk(tokenizer: Tokenizer) -> bool:
    """Whether `with_unk` can change a tokenizer: quick, because the tokenizer is not written as JSON."""
    model = tokenizer.model
    if isinstance(model, Unigram):  # does not tell its unknown token
        return True
    return model.unk_token is not None and model.token_to_id(model.unk_token) is None


def with_unk(spec: dict[str, Any], size: int) -> dict[str, Any]:
    """Return a tokenizer's JSON with an unknown token, if it lacks the one that it needs; else the JSON as it is.

    Args:
        spec: The tokenizer's JSON.
        size: The model's logit width. The new token's id is not below it, so that it counts as no token.
    """
    model = spec["model"]
    if model["type"] == "Unigram":
        vocab = model["vocab"]
        if model.get("unk_id") is not None:
            return spec
        lowest = min((score for _, score in vocab), default=0.0)
        filler = [[_SPELLING.format(i), lowest - 100.0] for i in range(len(vocab), max(size, len(vocab)) + 1)]
        return dict(spec, model=dict(model, vocab=[*vocab, *filler], unk_id=max(size, len(vocab))))
    token, vocab = model.get("unk_token"), model["vocab"]
    if token is None or token in vocab:
        return spec
    if model["type"] == "BPE":  # needs none
        return dict(spec, model=dict(model, unk_token=None))
    added = {entry["content"]: int(entry["id"]) for entry in spec["added_tokens"]}
    beyond = max([size, *(i + 1 for i in (*vocab.values(), *added.values()))])
    return dict(spec, model=dict(model, vocab=vocab | {token: added.get(token, beyond)}))
