"""Sealed files: safetensors files whose header holds metadata as JSON, with a hash over metadata and tensors.

Reading refuses a file that was altered or truncated, or that is of another kind, with an error that says what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.files import write_atomically
from vocabridge.alignment.inputs import plain_file, refuse_gzip
from vocabridge.alignment.jsonio import parse_json

Tensors: TypeAlias = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Seal:
    """One kind of sealed file.

    Attributes:
        what: What such a file holds, with its article: "an alignment".
        key: The header's entry that holds the metadata.
        format: The version that this library writes and reads.
        remedy: What to do about a file that cannot be used: "build it again with ...".
    """

    what: str
    key: str
    format: int
    remedy: str

    def hash(self, tensors: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, Any]) -> str:
        """Return the hex SHA-256 over metadata and tensors."""
        digest = hashlib.sha256(json.dumps({"format": self.format, **metadata}, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()

    def write(self, path: str | Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
        """Write a sealed file atomically.

        Raises:
            VocabridgeError: The file cannot be written (no such folder, no space, no permission).
        """
        header = {"format": self.format, **metadata, "sha256": self.hash(tensors, metadata)}
        write_atomically(path, save(tensors, {self.key: json.dumps(header, sort_keys=True)}))

    def read(self, path: str | Path) -> tuple[Tensors, dict[str, Any]]:
        """Read a sealed file.

        Returns:
            All tensors by name, and the metadata that was given to `write`.

        Raises:
            VocabridgeError: The file is missing, of another kind or format, altered or truncated.
        """
        path = Path(path)
        if not path.exists() or path.is_dir():
            raise VocabridgeError(f"{path}: no such file; {self.what} is expected there, so {self.remedy}")
        refuse_gzip(path)
        try:
            with safe_open(plain_file(path), framework="numpy") as file:
                header = file.metadata() or {}
                if self.key not in header:
                    raise VocabridgeError(f"{path}: a safetensors file, but not {self.what}; {self.remedy}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = parse_json(header[self.key])
            file_format = metadata.pop("format", None)
            if file_format != self.format:
                raise VocabridgeError(
                    f"{path}: of format {file_format}, and this version reads {self.format}; {self.remedy}"
                )
            if metadata.pop("sha256", None) != self.hash(tensors, metadata):
                raise VocabridgeError(f"{path}: altered or damaged (its content hash differs); {self.remedy}")
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise VocabridgeError(f"{path}: not readable as {self.what} ({error}); {self.remedy}") from error
        return tensors, metadata
