"""A model's tokenizer as transformers builds it, so that prompts are what its users give the model.

By the class that tokenizer_config.json names, transformers takes a tokenizer.json whole, or its vocabulary only; and it
follows settings that no tokenizer.json holds (`legacy`, `add_prefix_space`, `extra_special_tokens`,
`split_special_tokens`). Its own answer is the only sure one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from vocabridge.alignment import Vocabulary, with_native

logger = logging.getLogger("vocabridge")


def as_transformers_encodes(vocabulary: Vocabulary, place: str, revision: str | None = None) -> Vocabulary:
    """Return a vocabulary whose prompts are what transformers gives a model.

    Where transformers cannot build the tokenizer, prompts follow tokenizer.json, and a warning to the logger
    "vocabridge" says it.

    Args:
        vocabulary: The view of its tokenizer.json.
        place: The tokenizer's folder, or a hub id whose files are in the hub's cache.
        revision: Of a hub id: the commit.

    Raises:
        VocabridgeError: It has other ids for the tokens than tokenizer.json.
    """
    load: Any = AutoTokenizer.from_pretrained
    try:
        made = load(place, revision=revision, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a strange configuration may raise any
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        logger.warning(
            "%s: transformers cannot build its tokenizer (%s), so prompts are encoded as tokenizer.json says.",
            vocabulary.name,
            reason,
        )
        return vocabulary
    backend = getattr(made, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return vocabulary
    begins = "bos" in vocabulary.roles and made("a").input_ids[:1] == [vocabulary.roles["bos"]]
    return replace(with_native(vocabulary, backend, f"transformers' {type(made).__name__}"), add_bos_token=begins)
