"""Encoding prompts with the tokenizer that transformers builds, as users of a model do.

The class that tokenizer_config.json names decides whether transformers loads all of tokenizer.json or only its
vocabulary. Some settings are in no tokenizer.json (`legacy`, `add_prefix_space`, `extra_special_tokens`,
`split_special_tokens`). The tokenizer is therefore loaded with transformers, because only that gives the same ids for
certain.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from vocabridge.alignment import Vocabulary, with_native

logger = logging.getLogger("vocabridge")


def with_transformers_tokenizer(vocabulary: Vocabulary, place: str, revision: str | None = None) -> Vocabulary:
    """Return the vocabulary with prompts encoded by the tokenizer that transformers builds.

    If transformers cannot build the tokenizer, prompts are encoded with tokenizer.json, and the logger "vocabridge"
    gets a warning.

    Args:
        vocabulary: The byte view of the model's tokenizer.json.
        place: The tokenizer's folder, or a hub id whose files are in the hub's cache.
        revision: The commit, for a hub id.

    Raises:
        VocabridgeError: The tokenizer of transformers gives a token another id than tokenizer.json.
    """
    load: Any = AutoTokenizer.from_pretrained
    try:
        tokenizer = load(place, revision=revision, trust_remote_code=False, local_files_only=True)
        first_id = tokenizer("a").input_ids[:1]
    except Exception as error:  # a malformed configuration can raise any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        logger.warning(
            "%s: transformers cannot build its tokenizer (%s), so prompts are encoded with tokenizer.json.",
            vocabulary.name,
            reason,
        )
        return vocabulary
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return vocabulary
    adds_bos = "bos" in vocabulary.roles and first_id == [vocabulary.roles["bos"]]
    return replace(
        with_native(vocabulary, backend, f"transformers' {type(tokenizer).__name__}"), add_bos_token=adds_bos
    )
