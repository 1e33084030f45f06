"""Unknown tokens for tokenizers without one, so that text that they cannot spell is skipped, as BPE skips it.

Without an unknown token, the tokenizers library raises an error for such a text and for all other texts of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import Unigram

_SPELLING = "\ufffeunknown {}"
"""In no text: U+FFFE is no character."""


def unk_id(spec: Mapping[str, Any]) -> int | None:
    """Return the id of the unknown token, which a tokenizer emits for text that it cannot spell; None if it has none.

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
    i = model["vocab"].get(token, added.get(token))
    return None if i is None else int(i)


def may_lack_unk(tokenizer: Tokenizer) -> bool:
    """Whether `with_unk` may change a tokenizer; this is fast, because the tokenizer is not converted to JSON."""
    model = tokenizer.model
    if isinstance(model, Unigram):  # only its JSON shows the unknown token
        return True
    return model.unk_token is not None and model.token_to_id(model.unk_token) is None


def with_unk(spec: dict[str, Any], size: int) -> dict[str, Any]:
    """Return a tokenizer's JSON with an unknown token if it needs and lacks one, else `spec` itself.

    Args:
        spec: The tokenizer's JSON.
        size: The model's logit width. The new id is `size` or larger, so the byte view ignores it.
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
    if model["type"] == "BPE":  # it skips what it cannot spell if it names no unknown token
        return dict(spec, model=dict(model, unk_token=None))
    added = {entry["content"]: int(entry["id"]) for entry in spec["added_tokens"]}
    beyond = max([size, *(i + 1 for i in (*vocab.values(), *added.values()))])
    return dict(spec, model=dict(model, vocab=vocab | {token: added.get(token, beyond)}))
