"""The embedding table of a model, read where it lies: an array, a .npy or .safetensors file, a model's folder.

Rows are read as they are asked for, so that a table of any size costs no memory. bfloat16, which numpy does
not know, is the upper half of a float32.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.inputs import refuse_packed
from vocabridge.alignment.jsonio import parse_json, read_json
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BFLOAT16 = np.dtype("<u2")  # no other table holds unsigned integers
_DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": _BFLOAT16,
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_FOLDER_FILES = ("model.safetensors.index.json", "model.safetensors")
_NAMES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight")
"""How input embeddings are called: Llama, Gemma, Qwen, Mistral; GPT-2; BLOOM, BERT; Meta's Llama; GPT-NeoX."""

_HASHED_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """One row per id of a vocabulary; it may have more rows than there are ids (padding).

    Attributes:
        values: (rows, dimension), floating point, or bfloat16 as the uint16 it is stored in.
        name: For people.
    """

    values: np.ndarray[Any, Any] = field(repr=False)
    name: str

    @classmethod
    def of(cls, array: np.ndarray[Any, Any], name: str = "the given embeddings") -> EmbeddingTable:
        """Take an array, (rows, dimension), of floating point numbers.

        Raises:
            VocabridgeError: It has not two axes, or holds no floating point numbers.
        """
        if array.ndim != 2 or array.dtype.kind != "f":
            raise VocabridgeError(
                f"{name}: {array.dtype} of shape {array.shape}; "
                "embeddings are floating point numbers, (rows, dimension)."
            )
        return cls(array, name)

    @classmethod
    def open(cls, path: str | Path) -> EmbeddingTable:
        """Open a .npy or .safetensors file, the index of a sharded one, or a folder with such a file.

        Of several tensors it is the one called as input embeddings are, else the only one with two axes.

        Raises:
            VocabridgeError: No such file, of another kind, damaged, or no tensor looks like the embeddings.
        """
        path = Path(path)
        if path.is_dir():
            inside = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
            if not inside:
                raise VocabridgeError(f"{path}: there is none of {', '.join(_FOLDER_FILES)} in this folder.")
            path = inside[0]
        if not path.is_file():
            raise VocabridgeError(f"{path}: no such file; give a .npy or .safetensors file with embeddings.")
        refuse_packed(path)
        try:
            if path.suffix == ".npy":
                return cls.of(np.lib.format.open_memmap(path, mode="r"), str(path))
            if path.suffix == ".json":
                weights: Mapping[str, str] = read_json(path)["weight_map"]
                path = path.with_name(weights[_named(weights, path)])
            if path.suffix == ".safetensors":
                return cls(_mapped(path), str(path))
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VocabridgeError(f"{path}: not readable as embeddings ({error}); get the file again.") from error
        raise VocabridgeError(f"{path}: embeddings are read from .npy and .safetensors files.")

    @property
    def dimension(self) -> int:
        """Numbers per row."""
        return int(self.values.shape[1])

    def rows(self, ids: Int64) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the rows of these ids, (n, dimension)."""
        rows = self.values[ids]
        if rows.dtype == _BFLOAT16:
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)

    def check(self, vocabulary: Vocabulary) -> None:
        """Check that there is a row for every id.

        Raises:
            VocabridgeError: There are fewer.
        """
        if len(self.values) < vocabulary.size:
            raise VocabridgeError(
                f"{self.name}: {len(self.values)} rows for the {vocabulary.size} ids of {vocabulary.name}; "
                "give the embeddings of the model that this tokenizer belongs to."
            )

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 over type, shape and values."""
        digest = hashlib.sha256(f"{self.values.dtype} {self.values.shape}".encode())
        step = max(1, _HASHED_AT_ONCE // max(1, self.dimension))
        for at in range(0, len(self.values), step):
            digest.update(np.ascontiguousarray(self.values[at : at + step]).data)
        return digest.hexdigest()


def _named(shapes: Mapping[str, Any], path: Path) -> str:
    """Choose the tensor that is called as input embeddings are.

    Raises:
        VocabridgeError: None or several are.
    """
    found = [name for name in shapes if name.endswith(_NAMES)]
    if len(found) != 1:
        seen = ", ".join(found or sorted(shapes)[:3])
        raise VocabridgeError(
            f"{path}: {len(found) or 'no'} tensors are called as input embeddings are ({seen}); "
            "save the embeddings alone, as a .npy file."
        )
    return found[0]


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    """Map the embeddings of a safetensors file into memory.

    The file starts with the length of its JSON header, 8 bytes, and the header; a tensor's offsets count from
    its end. (https://huggingface.co/docs/safetensors: the library itself gives numpy no bfloat16.)
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = parse_json(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__" and len(entry["shape"]) == 2}
    chosen = tensors[next(iter(tensors)) if len(tensors) == 1 else _named(tensors, path)]
    if chosen["dtype"] not in _DTYPES:
        raise VocabridgeError(f"{path}: embeddings of type {chosen['dtype']}; {', '.join(_DTYPES)} are read.")
    start = 8 + length + chosen["data_offsets"][0]
    dtype = _DTYPES[chosen["dtype"]]
    return np.memmap(path, dtype, "r", offset=start, shape=tuple(chosen["shape"]))
