"""Checks of a vocabulary's ids, made before anything is built that has an entry for each id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.jsonio import parse_json
from vocabridge.alignment.tokenizers.tokens import WIDEST

_LARGE_NUMBER = re.compile(r":\s*\d{8}")  # WIDEST has 8 digits


def check_ids(name: str, ids: Iterable[int]) -> None:
    """Check that ids are not so large that a table with an entry for each would take all memory.

    Args:
        name: The name of what has the ids, for the error.
        ids: The ids.

    Raises:
        VocabridgeError: An id is `WIDEST` or larger.
    """
    if (largest := max(ids, default=-1)) >= WIDEST:
        raise VocabridgeError(
            f"{name}: it has a token with the id {largest}, and the ids of a model are below "
            f"{WIDEST}; download it again"
        )


def check_json_ids(name: str, text: str) -> None:
    """Check the ids in the text of a tokenizer.json, which is parsed only if it contains a large number.

    Raises:
        VocabridgeError: An id is too large.
    """
    if _LARGE_NUMBER.search(text):
        check_ids(name, _numbers(parse_json(text)))


def check_distinct_ids(name: str, tokenizer: Tokenizer) -> None:
    """Check that no two tokens have the same id, because the id could stand for either.

    Raises:
        VocabridgeError: Two tokens have the same id.
    """
    owners: dict[int, str] = {}
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    if len(set(vocab.values())) < len(vocab):
        for token, i in sorted(vocab.items()):
            if i in owners:
                raise VocabridgeError(
                    f"{name}: the tokens {owners[i]!r} and {token!r} have the same id, {i}; give each its own, or "
                    "download the file again"
                )
            owners[i] = token


def _numbers(spec: Any) -> Iterable[int]:
    """Yield the ids in a parsed tokenizer.json, which may be malformed."""
    if not isinstance(spec, Mapping):
        return
    model, added = spec.get("model"), spec.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    entries = [entry.get("id") for entry in added if isinstance(entry, Mapping)] if isinstance(added, list) else []
    for i in [*entries, *(vocab.values() if isinstance(vocab, Mapping) else ())]:
        if isinstance(i, int):
            yield i
