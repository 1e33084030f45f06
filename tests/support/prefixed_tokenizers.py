"""Small tokenizers that put a space in front of text by different rules, and some that do not."""

from __future__ import annotations

import json

from tokenizer_kinds import train
from tokenizers import Tokenizer, normalizers, pre_tokenizers


def _metaspace(scheme: str) -> Tokenizer:
    tokenizer = train("unigram")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return tokenizer


def _byte_level(add_prefix_space: bool) -> Tokenizer:
    tokenizer = train("byte_level_bpe")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return tokenizer


def _mistral() -> Tokenizer:
    """Metaspace over BPE with byte fallback, without splits, as Mistral's and newer Llama-2 conversions have it."""
    tokenizer = train("sentencepiece_bpe")
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def _llama_2(normalized: bool) -> Tokenizer:
    """`normalized`: special tokens are looked for after the normalizer, as in older conversions."""
    tokenizer = train("sentencepiece_bpe")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    spec = json.loads(tokenizer.to_str())
    for token in spec["added_tokens"]:
        token["normalized"] = normalized
    return Tokenizer.from_str(json.dumps(spec))


TOKENIZERS = {
    "byte-level": lambda: _byte_level(False),
    "byte-level with a prefix": lambda: _byte_level(True),
    "metaspace never": lambda: _metaspace("never"),
    "metaspace first": lambda: _metaspace("first"),
    "metaspace always": lambda: _metaspace("always"),
    "mistral": _mistral,
    "llama-2": lambda: _llama_2(False),
    "llama-2 of before": lambda: _llama_2(True),
    "wordpiece": lambda: train("wordpiece"),
}
