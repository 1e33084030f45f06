"""Read the tokenizer that a GGUF file carries, and nothing else of it.

A GGUF has no tokenizer.json: it holds the tokens, their types, and either merges (byte-level BPE, model
"gpt2") or scores (SentencePiece BPE, model "llama") under llama.cpp's key names. The header is read
directly with `struct`: a general reader makes an array of every one of the 262,144 tokens and takes 50
times as long. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from .errors import VocabridgeError

CONTROL, USER_DEFINED, UNUSED, BYTE = 3, 4, 5, 6
"""Token types of `tokenizer.ggml.token_type` (1 is a normal token, 2 the unknown one)."""

_ROLE_KEYS = {"begin": "bos", "end": "eos", "pad": "padding", "unknown": "unknown"}

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GGUFTokenizer:
    """The tokenizer of a GGUF file.

    Attributes:
        tokenizer: A fast tokenizer that segments as the model's own does; adds no begin token.
        size: The number of rows, which is the logit width.
        roles: "begin", "end", "pad", "unknown" -> id, those that the file names.
        adds_begin: Whether the model expects the begin token in front of every text.
        token_types: llama.cpp's type of every id, (size,) int32.
        chat_template: The Jinja template, if there is one.
    """

    tokenizer: Tokenizer
    size: int
    roles: Mapping[str, int]
    adds_begin: bool
    token_types: np.ndarray[Any, np.dtype[np.int32]]
    chat_template: str | None


def read_gguf_tokenizer(path: str | Path) -> GGUFTokenizer:
    """Read the tokenizer of a GGUF file (version 2 or 3, little-endian).

    Raises:
        VocabridgeError: The file is missing, damaged or no GGUF, or its tokenizer is of a kind not known
            here.
    """
    path = Path(path)
    fields = _read_tokenizer_fields(path)
    try:
        tokenizer, types = _build(fields)
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from None
    except Exception as error:  # tokenizers raises no other, e.g. for a merge of tokens that do not exist
        raise VocabridgeError(
            f"{path}: its tokenizer cannot be built ({error}); use the model's tokenizer.json."
        ) from error
    ids = {role: fields.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLE_KEYS.items()}
    roles = {role: int(i) for role, i in ids.items() if i is not None}
    # llama.cpp adds the begin token to a SentencePiece vocabulary that does not say otherwise.
    adds_begin = fields.get("tokenizer.ggml.add_bos_token", fields["tokenizer.ggml.model"] == "llama")
    return GGUFTokenizer(
        tokenizer=tokenizer,
        size=len(types),
        roles=roles,
        adds_begin="begin" in roles and bool(adds_begin),
        token_types=types,
        chat_template=fields.get("tokenizer.chat_template"),
    )


def _build(fields: Mapping[str, Any]) -> tuple[Tokenizer, np.ndarray[Any, np.dtype[np.int32]]]:
    """Build the tokenizer that the fields describe; return it with the type of every id, (size,) int32."""
    kind, tokens = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.tokens")
    if kind is None or tokens is None:
        raise VocabridgeError("this GGUF file carries no tokenizer; name one that does.")
    types = np.array(fields.get("tokenizer.ggml.token_type", [1] * len(tokens)), np.int32)
    marked = np.flatnonzero((types == CONTROL) | (types == USER_DEFINED)).tolist()
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, fields)
    elif kind == "llama":
        # Gemma's files have real spaces in runs of spaces, which its model spells "▁▁". These are left to the
        # merges: as added tokens they would be looked for in the text under that spelling.
        runs = {i for i, token in enumerate(tokens) if token and not token.strip(" ")}
        tokens = ["▁" * len(token) if i in runs else token for i, token in enumerate(tokens)]
        marked = [i for i in marked if i not in runs]
        tokenizer = _sentencepiece(tokens, fields)
    else:
        raise VocabridgeError(
            f"a GGUF tokenizer of model {kind!r} cannot be read (gpt2 and llama can); use its tokenizer.json."
        )
    tokenizer.add_tokens([AddedToken(tokens[i], special=bool(types[i] == CONTROL), normalized=False) for i in marked])
    return tokenizer, types


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_LARGE, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(ending: str, numbers: str) -> str:
    """Return GPT-4o's pattern: words are cut where a small letter is followed by a large one."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{_LARGE}*{_SMALL}+{ending}|{start}{_LARGE}+{_SMALL}*{ending}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"


_LLAMA_3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}"
_GPT_4O = _cased(f"{_CONTRACTION}?", r"\p{N}{1,3}")
_PATTERNS = {
    "llama-bpe": (_LLAMA_3,),
    "llama3": (_LLAMA_3,),
    "llama-v3": (_LLAMA_3,),
    "dbrx": (_LLAMA_3,),
    "smaug-bpe": (_LLAMA_3,),
    "qwen2": (rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS}",),
    "qwen35": (
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",
    ),
    "gpt-4o": (_GPT_4O,),
    "llama4": (_GPT_4O,),
    "tekken": (_cased("", r"\p{N}"),),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}",
    ),
}
"""By the names of `tokenizer.ggml.pre`: text is cut by the first pattern, what that gives by the next."""

_NFC = ("qwen2", "qwen35")
_KEEPS_WHOLE_TOKENS = ("llama-bpe", "llama3", "llama-v3", "tekken", "gpt-4o", "llama4")
"""Those that keep a word that is a token whole, even where no chain of merges leads to it."""


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer that `tokenizer.ggml.pre` names."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("gpt-2", "default"):
        return whole
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    if name not in _PATTERNS:
        raise VocabridgeError(
            f"the pre-tokenizer {name!r} is not known, so text would be cut wrongly; use its tokenizer.json."
        )
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _PATTERNS[name]]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level(tokens: Sequence[str], fields: Mapping[str, Any]) -> Tokenizer:
    """Build a byte-level BPE from tokens and merges."""
    name = fields.get("tokenizer.ggml.pre", "default")
    pre_tokenizer = _pre_tokenizer(name)
    merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges", ())]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=name in _KEEPS_WHOLE_TOKENS))
    if name in _NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(tokens: Sequence[str], fields: Mapping[str, Any]) -> Tokenizer:
    """Build a SentencePiece-style BPE with byte fallback from tokens and scores."""
    vocab = {token: i for i, token in enumerate(tokens)}
    if str(fields.get("general.architecture", "")).startswith("gemma"):
        ranks: Sequence[float] = range(len(tokens))  # Gemma's order of merging is its order of ids
    else:
        ranks = [-score for score in fields["tokenizer.ggml.scores"]]
    unknown = fields.get("tokenizer.ggml.unknown_token_id")
    model = models.BPE(
        vocab=vocab,
        merges=_merges(tokens, ranks, vocab),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(" ", "▁")
    prepend = fields.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prepend else spaces
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*pieces, decoders.Strip(" ", 1, 0)] if prepend else pieces)
    return tokenizer


def _merges(tokens: Sequence[str], ranks: Sequence[float], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Recover the merges: every cut of a token into two tokens, best-ranked token first.

    Among the cuts of tokens of one rank the longer left part comes first, as in the published conversions.
    """
    get = vocab.get
    found = [
        (rank, -cut, -len(token), left, right)
        for token, rank in zip(tokens, ranks, strict=True)
        for cut in range(1, len(token))
        if (left := get(token[:cut])) is not None and (right := get(token[cut:])) is not None
    ]
    found.sort()
    return [(tokens[left], tokens[right]) for _, _, _, left, right in found]


def _read_tokenizer_fields(path: Path) -> dict[str, Any]:
    """Return the `tokenizer.*` fields and the architecture from a GGUF file's header."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(data).fields()
    except OSError as error:
        raise VocabridgeError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    except (struct.error, ValueError, KeyError) as error:
        raise VocabridgeError(
            f"{path}: not a readable GGUF file ({error}); download it again or name another file."
        ) from error


class _Header:
    """A cursor over the key-value part of a GGUF file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4
        if data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        (version,) = self._take("<I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, and 2 and 3 are known")
        _, self._count = self._take("<QQ")

    def fields(self) -> dict[str, Any]:
        found = {}
        for _ in range(self._count):
            key = self._string()
            (kind,) = self._take("<I")
            value = self._value(kind)
            if key.startswith("tokenizer.") or key == "general.architecture":
                found[key] = value
        return found

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _string(self) -> str:
        (length,) = self._take("<Q")
        end = self._at + length
        if end > len(self._data):
            raise ValueError("it ends in the middle of a string")
        text = self._data[self._at : end].decode()
        self._at = end
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, length = self._take("<IQ")
            if item in _SCALARS:
                return self._take(f"<{length}{_SCALARS[item]}")
            return [self._value(item) for _ in range(length)]
        return self._take(f"<{_SCALARS[kind]}")[0]
