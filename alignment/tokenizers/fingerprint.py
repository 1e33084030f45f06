"""The fingerprint of a tokenizer, which is the same for tokenizers that make the same tokens of any text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from vocabridge.alignment.tokenizers.byteview import is_unused_name
from vocabridge.alignment.tokenizers.tokens import TokenKind


def fingerprint_of(spelled: Mapping[int, tuple[TokenKind, bytes]], spec: Mapping[str, Any]) -> str:
    """Hash everything that decides into which tokens text is cut, and which bytes they stand for.

    Control tokens have no part in it. Settings of the model with an empty value are left out, so a setting that a later
    version of tokenizers adds does not change the hash.

    Args:
        spelled: Id -> kind and bytes, for text tokens.
        spec: The JSON of the bare tokenizer.
    """
    digest = hashlib.sha256()

    def add(label: str, data: bytes) -> None:
        digest.update(f"{label} {len(data)}\n".encode())
        digest.update(data)

    def compact(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    model = {k: v for k, v in spec["model"].items() if v not in (None, False, "") and k not in ("vocab", "merges")}
    vocab = spec["model"]["vocab"]
    special = {entry["id"] for entry in spec["added_tokens"] if entry["special"]}
    # Scores have 6 digits here, because reading a tokenizer.json can change the last of 17.
    entries = (
        [(i, token, "") for token, i in vocab.items()]
        if isinstance(vocab, dict)
        else [(i, token, f"{score:.6g}") for i, (token, score) in enumerate(vocab)]
    )
    ids = sorted(spelled)
    add("ids", np.array(ids, "<i8").tobytes())
    add("lengths", np.array([len(spelled[i][1]) for i in ids], "<i8").tobytes())
    add("bytes", b"".join(spelled[i][1] for i in ids))
    add("kinds", bytes(spelled[i][0] for i in ids))
    add("model", compact(model))
    add("vocab", compact(sorted(e for e in entries if e[0] not in special and not is_unused_name(e[1]))))
    add("merges", compact(spec["model"].get("merges", [])))
    add("added", compact([entry for entry in spec["added_tokens"] if not entry["special"]]))
    add("normalizer", compact(spec["normalizer"]))
    add("pre_tokenizer", compact(spec["pre_tokenizer"]))
    return digest.hexdigest()
