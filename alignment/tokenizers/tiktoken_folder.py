"""Tokenizers of model folders with a tiktoken.model: it holds the ranks, and tokenizer_config.json the special tokens.

Such a folder has the pattern that cuts text into words only in Python code, which is not run. Therefore this module
contains the patterns of known tokenizers, which it recognizes by the class that tokenizer_config.json names.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.settings import TokenizerSettings
from vocabridge.alignment.tokenizers.tiktoken import read_tiktoken, tiktoken_tokenizer

_LARGE, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI_PATTERN = (
    r"[\p{Han}]+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_LARGE}*{_SMALL}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_LARGE}+{_SMALL}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Kimi's pattern, in which runs of Chinese characters are words.

Source: tokenization_kimi.py of moonshotai/Kimi-K2-Instruct.
"""

_RESERVED = 256
"""The number of ids for special tokens after the ranks, as in Kimi's code; ids without a name are not used."""

_PATTERNS = {"tokenization_kimi.TikTokenTokenizer": KIMI_PATTERN, "TikTokenTokenizer": KIMI_PATTERN}


def read_tiktoken_folder(path: Path, settings: TokenizerSettings) -> Tokenizer:
    """Make the fast tokenizer of a folder.

    Args:
        path: The tiktoken.model.
        settings: The settings of the files beside it.

    Raises:
        VocabridgeError: The settings name no tokenizer whose pattern is known, or the ranks cannot be read.
    """
    pattern = next((_PATTERNS[name] for name in settings.classes if name in _PATTERNS), None)
    if pattern is None:
        raise VocabridgeError(
            f"{path}: it does not say how text is cut into words, and no tokenizer_config.json beside it names a "
            "tokenizer whose pattern is known (Kimi's is); make a tokenizer of it and of the model's pattern with "
            "`alignment.tiktoken_tokenizer` for `Vocabulary.from_tokenizer`"
        )
    ranks = read_tiktoken(path)
    first = max(ranks.values()) + 1
    names = {i: f"<|reserved_token_{i}|>" for i in range(first, first + _RESERVED)} | dict(settings.added_tokens)
    return tiktoken_tokenizer(ranks, pattern, {name: i for i, name in names.items()})
