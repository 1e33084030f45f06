"""Checks that files were downloaded completely: no Git LFS pointers, no weights that are cut off."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.inputs import refuse_gzip
from vocabridge.alignment.tokenizers.gguf import announced_size

_POINTER = b"version https://git-lfs.github.com/spec/"
_SUFFIXES = (".safetensors", ".gguf", ".bin", ".json", ".model", ".tiktoken", ".jinja")


def check_downloads(path: Path) -> None:
    """Check a file, or all weights, settings and tokenizer files of a model's folder.

    Raises:
        VocabridgeError: A file cannot be read, is a Git LFS pointer or compressed with gzip, or has fewer bytes than
            its header announces.
    """
    files = [file for file in sorted(path.iterdir()) if file.suffix in _SUFFIXES] if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            _check(file)


def _check(path: Path) -> None:
    refuse_gzip(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        size = path.stat().st_size
        announced = _announced_size(path)
    except OSError as error:
        raise VocabridgeError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    if start == _POINTER:
        raise VocabridgeError(
            f"{path}: a Git LFS pointer and not the file itself; download the file again (in a clone, `git lfs pull`)"
        )
    if announced is not None and size < announced:
        raise VocabridgeError(f"{path}: cut off at {size} of {announced} bytes; download it again")


def _announced_size(path: Path) -> int | None:
    """Return the number of bytes that a weight file has according to its header; None if there is no such header."""
    if path.suffix == ".gguf":
        return announced_size(path)
    if path.suffix != ".safetensors":
        return None
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return 8
        (length,) = struct.unpack("<Q", start)
        if length > 100_000_000:  # the format's own limit
            return None
        header = file.read(length)
    if len(header) < length:
        return 8 + length
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
