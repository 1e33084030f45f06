"""The embedding table of a model: an array, a .npy or .safetensors file, or a model's folder.

Files are mapped into memory, so only the requested rows are read. numpy has no bfloat16, which is the upper half of a
float32, so such a table is kept as uint16 and its rows are converted.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.inputs import refuse_gzip
from vocabridge.alignment.jsonio import parse_json, read_json
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
"""Names of input embeddings: of Llama, Gemma, Qwen, Mistral; of GPT-2; of BLOOM, BERT; of Meta's Llama; of GPT-NeoX."""

_HASHED_AT_ONCE = 1 << 24
"""The values that are hashed in one step."""


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """A model's embeddings, one row per id. A table may have more rows than there are ids (padding).

    Attributes:
        values: (rows, dimension), floating point numbers, or bfloat16 numbers stored as uint16.
        name: The name of the table, for messages.
    """

    values: np.ndarray[Any, Any] = field(repr=False)
    name: str

    @classmethod
    def of(cls, array: np.ndarray[Any, Any], name: str = "the given embeddings") -> EmbeddingTable:
        """Make a table of an array, (rows, dimension), of floating point numbers.

        Raises:
            VocabridgeError: The array does not have two axes, or does not hold floating point numbers.
        """
        if array.ndim != 2 or array.dtype.kind != "f":
            raise VocabridgeError(
                f"{name}: {array.dtype} of shape {array.shape}; "
                "give embeddings as floating point numbers of shape (rows, dimension)"
            )
        return cls(array, name)

    @classmethod
    def open(cls, path: str | Path) -> EmbeddingTable:
        """Open a .npy or .safetensors file, the index of a sharded one, or a folder with such a file.

        If a file has several tensors with two axes, the one with a usual name of input embeddings is taken.

        Raises:
            VocabridgeError: The file is missing, of another kind or damaged, or no tensor or several may be the
                embeddings.
        """
        path = Path(path)
        if path.is_dir():
            files = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
            if not files:
                raise VocabridgeError(
                    f"{path}: there is none of {', '.join(_FOLDER_FILES)} in this folder; name the file with the "
                    "embeddings"
                )
            path = files[0]
        if not path.is_file():
            raise VocabridgeError(f"{path}: no such file; give a .npy or .safetensors file with embeddings")
        refuse_gzip(path)
        try:
            if path.suffix == ".npy":
                return cls.of(np.lib.format.open_memmap(path, mode="r"), str(path))
            if path.suffix == ".json":
                weights: Mapping[str, str] = read_json(path)["weight_map"]
                path = path.with_name(weights[_embedding_name(weights, path)])
            if path.suffix == ".safetensors":
                return cls(_map_safetensors(path), str(path))
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VocabridgeError(f"{path}: not readable as embeddings ({error}); get the file again") from error
        raise VocabridgeError(f"{path}: embeddings are read from .npy and .safetensors files; give such a file")

    @property
    def dimension(self) -> int:
        """The length of a row."""
        return int(self.values.shape[1])

    def rows(self, ids: Int64) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the rows of n ids, (n, dimension) float32."""
        rows = self.values[ids]
        if rows.dtype == _BFLOAT16:
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)

    def check(self, vocabulary: Vocabulary) -> None:
        """Check that the table has a row for every id of a vocabulary.

        Raises:
            VocabridgeError: The table has fewer rows.
        """
        if len(self.values) < vocabulary.size:
            raise VocabridgeError(
                f"{self.name}: {len(self.values)} rows for the {vocabulary.size} ids of {vocabulary.name}; "
                "give the embeddings of the model that this tokenizer belongs to"
            )

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 over type, shape and values."""
        digest = hashlib.sha256(f"{self.values.dtype} {self.values.shape}".encode())
        step = max(1, _HASHED_AT_ONCE // max(1, self.dimension))
        for at in range(0, len(self.values), step):
            digest.update(np.ascontiguousarray(self.values[at : at + step]).data)
        return digest.hexdigest()


def _embedding_name(tensors: Mapping[str, Any], path: Path) -> str:
    """Return the name of the tensor that has a usual name of input embeddings.

    Raises:
        VocabridgeError: No tensor has such a name, or several have.
    """
    candidates = [name for name in tensors if name.endswith(_NAMES)]
    if len(candidates) != 1:
        listed = ", ".join(candidates or sorted(tensors)[:3])
        raise VocabridgeError(
            f"{path}: {len(candidates) or 'no'} tensors have a usual name of input embeddings ({listed}); "
            "save the embeddings alone, as a .npy file"
        )
    return candidates[0]


def _map_safetensors(path: Path) -> np.ndarray[Any, Any]:
    """Map the embeddings of a safetensors file into memory.

    The file starts with the length of its JSON header in 8 bytes, then the header. A tensor's offsets count from the
    end of the header (https://huggingface.co/docs/safetensors). The library itself cannot return bfloat16 to numpy.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = parse_json(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__" and len(entry["shape"]) == 2}
    chosen = tensors[next(iter(tensors)) if len(tensors) == 1 else _embedding_name(tensors, path)]
    if chosen["dtype"] not in _DTYPES:
        raise VocabridgeError(
            f"{path}: embeddings of type {chosen['dtype']} cannot be read; save them as one of {', '.join(_DTYPES)}"
        )
    start = 8 + length + chosen["data_offsets"][0]
    dtype = _DTYPES[chosen["dtype"]]
    return np.memmap(path, dtype, "r", offset=start, shape=tuple(chosen["shape"]))
