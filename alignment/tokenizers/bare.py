"""Copies of a tokenizer without additions to a text: one without, and one with the prepended space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from vocabridge.alignment.tokenizers.byteview import components


def bare_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a bare copy, which adds nothing to a text and has no truncation, padding or dropout."""
    bare = dict(spec, post_processor=None, truncation=None, padding=None)
    if bare["model"].get("dropout"):
        bare["model"] = dict(bare["model"], dropout=None)
    bare["normalizer"] = _without_prepended_space(spec["normalizer"])
    # After WhitespaceSplit the prepended space is no addition, because it stands for the space that was cut away.
    if not any(part["type"] == "WhitespaceSplit" for part in components(spec["pre_tokenizer"])):
        bare["pre_tokenizer"] = _without_prepended_space(spec["pre_tokenizer"])
    return bare


def bare_tokenizer(tokenizer: Tokenizer, spec: Mapping[str, Any], bare: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that `bare` describes: this one, changed, or a new one if it cannot be changed so."""
    if any(bare[part] != spec[part] for part in ("normalizer", "pre_tokenizer", "model")):
        return Tokenizer.from_str(json.dumps(bare))
    tokenizer.post_processor = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def native_tokenizer(tokenizer: Tokenizer, spec: Mapping[str, Any], bare: Mapping[str, Any]) -> Tokenizer:
    """Return the bare tokenizer with the prepended space; the bare tokenizer itself if it prepends none.

    Args:
        tokenizer: The bare tokenizer.
        spec: The JSON of the tokenizer from its file.
        bare: The JSON of the bare tokenizer.
    """
    prepending = {part: spec[part] for part in ("normalizer", "pre_tokenizer")}
    if all(bare[part] == value for part, value in prepending.items()):
        return tokenizer
    return Tokenizer.from_str(json.dumps({**bare, **prepending}))


def _without_prepended_space(part: Any) -> Any:
    """Return a normalizer or pre-tokenizer that prepends nothing to a text; None if it does nothing else."""
    if part is None or part["type"] == "Prepend":
        return None
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            members = [m for m in map(_without_prepended_space, part[key]) if m is not None]
            return dict(part, **{key: members}) if members else None
    if part["type"] == "Metaspace":
        return dict(part, prepend_scheme="never")
    if part["type"] == "ByteLevel" and "add_prefix_space" in part:
        return dict(part, add_prefix_space=False)
    return part
