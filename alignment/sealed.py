"""Sealed files: safetensors whose header holds all facts as JSON and a hash over facts and tensors.

What was altered, cut off, or written as something else is refused at reading, with a sentence that says what
to do.
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
from vocabridge.alignment.inputs import plain_file, refuse_packed
from vocabridge.alignment.jsonio import parse_json

Tensors: TypeAlias = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Seal:
    """One kind of sealed file.

    Attributes:
        what: What such a file holds, with its article: "an alignment".
        key: The header's entry that holds the facts.
        format: The version that this library writes, and reads.
        again: What to do about a file that cannot be used: "build it again with ...".
    """

    what: str
    key: str
    format: int
    again: str

    def hash(self, tensors: Mapping[str, np.ndarray[Any, Any]], facts: Mapping[str, Any]) -> str:
        """Return the hex SHA-256 over facts and tensors."""
        digest = hashlib.sha256(json.dumps({"format": self.format, **facts}, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()

    def write(self, path: str | Path, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        """Write a sealed file; it is either complete or not there.

        Raises:
            VocabridgeError: It cannot be written (no such folder, no space, no permission).
        """
        header = {"format": self.format, **facts, "sha256": self.hash(tensors, facts)}
        write_atomically(path, save(tensors, {self.key: json.dumps(header, sort_keys=True)}))

    def read(self, path: str | Path) -> tuple[Tensors, dict[str, Any]]:
        """Read a sealed file.

        Returns:
            All tensors by name, and the facts that were given to `write`.

        Raises:
            VocabridgeError: No such file, of another kind or format, altered or cut off.
        """
        path = Path(path)
        if not path.exists() or path.is_dir():
            raise VocabridgeError(f"{path}: no such file; {self.what} is expected there: {self.again}.")
        refuse_packed(path)
        try:
            with safe_open(plain_file(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if self.key not in metadata:
                    raise VocabridgeError(f"{path}: a safetensors file, but not {self.what}; {self.again}.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            facts = parse_json(metadata[self.key])
            found = facts.pop("format", None)
            if found != self.format:
                raise VocabridgeError(f"{path}: of format {found}, and this version reads {self.format}; {self.again}.")
            if facts.pop("sha256", None) != self.hash(tensors, facts):
                raise VocabridgeError(f"{path}: altered or damaged (its content hash differs); {self.again}.")
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise VocabridgeError(f"{path}: not readable as {self.what} ({error}); {self.again}.") from error
        return tensors, facts
