"""Reading the tokenizer of a GGUF file.

Instead of a tokenizer.json, a GGUF file holds the tokens, their types, and either merges (byte-level BPE, model "gpt2")
or scores (SentencePiece BPE, model "llama"), under llama.cpp's key names. The header is read with `struct`, because the
reader of the gguf package makes an array of each of Gemma's 262,144 tokens and takes 50 times as long. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.gguf_pre_tokenizers import word_cutting

CONTROL, USER_DEFINED, UNUSED, BYTE = 3, 4, 5, 6
"""Token types of `tokenizer.ggml.token_type` (1 is a normal token, 2 is the unknown token)."""

Types: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]

_ROLE_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
_SENTENCEPIECE_ROLES = {"unk": 0, "bos": 1, "eos": 2}
"""llama.cpp's default roles of a SentencePiece vocabulary, for files that do not name them."""
_NO_ID = 0xFFFFFFFF
"""-1 as an unsigned number, which some converters write if there is no such token."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GGUFTokenizer:
    """The tokenizer of a GGUF file.

    Attributes:
        tokenizer: A fast tokenizer that cuts text as the model's own does; it adds no bos token.
        tokens: The spelling of every id; several ids may have the same spelling.
        roles: "bos", "eos", "pad", "unk" -> id, as far as the file or llama.cpp's defaults name them.
        add_bos_token: Whether the model expects the bos token in front of every text.
        token_types: llama.cpp's type of every id, (size,) int32.
        added: Id -> added token; added tokens are matched in the text before it is cut into words.
        chat_template: The Jinja chat template; None if there is none.
    """

    tokenizer: Tokenizer
    tokens: tuple[str, ...]
    roles: Mapping[str, int]
    add_bos_token: bool
    token_types: Types
    added: Mapping[int, AddedToken]
    chat_template: str | None

    @property
    def size(self) -> int:
        """The number of rows, which is the logit width."""
        return len(self.tokens)


def read_gguf_tokenizer(path: str | Path) -> GGUFTokenizer:
    """Read the tokenizer of a GGUF file (version 2 or 3, little-endian).

    Raises:
        VocabridgeError: The file is missing, damaged or no GGUF file, or its tokenizer is of an unsupported kind.
    """
    path = Path(path)
    fields = _read_tokenizer_fields(path)
    try:
        tokenizer, types, added = _build(fields)
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from None
    except Exception as error:  # tokenizers raises bare Exception, for example for a merge of unknown tokens
        raise VocabridgeError(
            f"{path}: its tokenizer cannot be built ({error}); use the model's tokenizer.json"
        ) from error
    roles = _roles(fields)
    return GGUFTokenizer(
        tokenizer=tokenizer,
        tokens=tuple(fields["tokenizer.ggml.tokens"]),
        roles=roles,
        add_bos_token="bos" in roles and _add_bos_token(fields),
        token_types=types,
        added=added,
        chat_template=fields.get("tokenizer.chat_template"),
    )


def _build(fields: Mapping[str, Any]) -> tuple[Tokenizer, Types, dict[int, AddedToken]]:
    """Build the tokenizer that the fields describe, and return it with the type of every id and the added tokens."""
    kind, tokens = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.tokens")
    if kind is None or tokens is None:
        raise VocabridgeError("this GGUF file holds no tokenizer; name one that does")
    types = np.ones(len(tokens), np.int32)
    if "tokenizer.ggml.token_type" in fields:
        types[:] = _per_token(fields, "token_type", len(tokens))
    marked = np.flatnonzero((types == CONTROL) | (types == USER_DEFINED)).tolist()
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, fields)
    elif kind == "llama":
        # Gemma's files spell runs of spaces with spaces, and its model spells them "▁▁". Such tokens come from merges,
        # because added tokens would be matched in the text by the spelling "▁▁".
        runs = {i for i, token in enumerate(tokens) if token and not token.strip(" ")}
        tokens = ["▁" * len(token) if i in runs else token for i, token in enumerate(tokens)]
        marked = [i for i in marked if i not in runs]
        tokenizer = _sentencepiece(tokens, fields)
    else:
        raise VocabridgeError(
            f"a GGUF tokenizer of model {kind!r} cannot be read (gpt2 and llama can); use its tokenizer.json"
        )
    added = {i: AddedToken(tokens[i], special=bool(types[i] == CONTROL), normalized=False) for i in marked}
    tokenizer.add_tokens(list(added.values()))
    return tokenizer, types, added


def _roles(fields: Mapping[str, Any]) -> dict[str, int]:
    """Return the roles that the file names and, for SentencePiece, llama.cpp's defaults for the others.

    A default is left out if its id has a role already, or is beyond the vocabulary.
    """
    ids = {role: fields.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLE_KEYS.items()}
    roles = {role: int(i) for role, i in ids.items() if i not in (None, _NO_ID, -1)}
    if fields["tokenizer.ggml.model"] == "llama":
        size, taken = len(fields["tokenizer.ggml.tokens"]), set(roles.values())
        for role, i in _SENTENCEPIECE_ROLES.items():
            if ids[role] is None and i not in taken and i < size:
                roles[role] = i
    return roles


def _add_bos_token(fields: Mapping[str, Any]) -> bool:
    """Whether a bos token is put in front of every text, by the file's setting or else by llama.cpp's default."""
    setting = fields.get("tokenizer.ggml.add_bos_token")
    if setting is not None:
        return bool(setting)
    if fields["tokenizer.ggml.model"] == "llama":
        return True
    return word_cutting(fields.get("tokenizer.ggml.pre", "default")).add_bos_token


def _per_token(fields: Mapping[str, Any], name: str, size: int) -> Sequence[Any]:
    """Return an array with one entry per token; entries beyond the last token are ignored, as llama.cpp does.

    Raises:
        VocabridgeError: There are fewer entries than tokens.
    """
    values: Sequence[Any] = fields[f"tokenizer.ggml.{name}"]
    if len(values) < size:
        raise VocabridgeError(
            f"it has {size} tokens but {len(values)} entries in tokenizer.ggml.{name}; download it again or convert "
            "the model again"
        )
    return values[:size]


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    """Return spelling -> id; of several ids with one spelling the last, as in transformers' conversion."""
    return {token: i for i, token in enumerate(tokens)}


def _byte_level(tokens: Sequence[str], fields: Mapping[str, Any]) -> Tokenizer:
    """Build a byte-level BPE tokenizer from tokens and merges."""
    cutting = word_cutting(fields.get("tokenizer.ggml.pre", "default"))
    merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges", ())]
    vocab = _ids(tokens)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=cutting.keeps_whole))
    if cutting.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = cutting.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(tokens: Sequence[str], fields: Mapping[str, Any]) -> Tokenizer:
    """Build a SentencePiece-style BPE tokenizer with byte fallback from tokens and scores."""
    vocab = _ids(tokens)
    if str(fields.get("general.architecture", "")).startswith("gemma"):
        ranks: Sequence[float] = range(len(tokens))  # Gemma merges in the order of ids
    else:
        ranks = [-score for score in _per_token(fields, "scores", len(tokens))]
    unknown = _roles(fields).get("unk")
    model = models.BPE(
        vocab=vocab,
        merges=_merges(tokens, ranks, vocab),
        unk_token=None if unknown is None or unknown >= len(tokens) else tokens[unknown],
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
    """Recover the merges: every cut of a token into two tokens, in the order of the tokens' ranks.

    Among cuts of tokens of the same rank, the one with the longer left part comes first, as in published conversions.
    """
    get = vocab.get
    cuts = [
        (ranks[i], -cut, -len(token), left, right)
        for token, i in vocab.items()
        for cut in range(1, len(token))
        if (left := get(token[:cut])) is not None and (right := get(token[cut:])) is not None
    ]
    cuts.sort()
    return [(tokens[left], tokens[right]) for _, _, _, left, right in cuts]


def _read_tokenizer_fields(path: Path) -> dict[str, Any]:
    """Read the `tokenizer.*` fields and the architecture from a GGUF file's header."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(data).fields()
    except OSError as error:
        raise VocabridgeError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (struct.error, ValueError, KeyError) as error:
        raise VocabridgeError(
            f"{path}: not a readable GGUF file ({error}); download it again or name another file"
        ) from error


def announced_size(path: Path) -> int | None:
    """Return the number of bytes that a GGUF file has according to its header; None if the header cannot be read."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data)
            alignment = int(header.fields().get("general.alignment", 32))
            ends = [0]
            for elements, kind, offset in header.tensors():
                block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                ends.append(offset + elements // block * size)
            return -(-header.at // alignment) * alignment + max(ends)
    except (struct.error, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


class _Header:
    """A cursor over the header of a GGUF file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4
        if data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        (version,) = self._take("<I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, and only 2 and 3 can be read")
        self._tensors, self._count = self._take("<QQ")

    @property
    def at(self) -> int:
        """The offset of the byte that is read next."""
        return self._at

    def fields(self) -> dict[str, Any]:
        fields = {}
        for _ in range(self._count):
            key = self._string()
            (kind,) = self._take("<I")
            value = self._value(kind)
            if key.startswith("tokenizer.") or key in ("general.architecture", "general.alignment"):
                fields[key] = value
        return fields

    def tensors(self) -> Iterator[tuple[int, int, int]]:
        """Yield number of elements, type and offset of each tensor; to be called after `fields`."""
        for _ in range(self._tensors):
            self._string()
            (dimensions,) = self._take("<I")
            shape = self._take(f"<{dimensions}Q")
            yield math.prod(shape), *self._take("<IQ")

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
