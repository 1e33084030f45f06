"""Whether a file is the whole of what was to be downloaded: Git LFS pointers, and weights that are cut off."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.inputs import refuse_gzip
from vocabridge.alignment.tokenizers.gguf import promised_size

_POINTER = b"version https://git-lfs.github.com/spec/"
_SUFFIXES = (".safetensors", ".gguf", ".bin", ".json", ".model", ".tiktoken", ".jinja")


def check_downloads(path: Path) -> None:
    """Check a file, or the files of a model's folder, those of its tokenizer among them.

    Raises:
        VocabridgeError: A file is a Git LFS pointer or packed by gzip, or has fewer bytes than its header promises.
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
        promised = _promised(path)
    except OSError as error:
        raise VocabridgeError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    if start == _POINTER:
        raise VocabridgeError(
            f"{path}: a Git LFS pointer and not the file itself; download the file again (in a clone, `git lfs pull`)."
        )
    if promised is not None and size < promised:
        raise VocabridgeError(f"{path}: cut off at {size} of {promised} bytes; download it again.")


def _promised(path: Path) -> int | None:
    """Return how many bytes a file of weights has by its own header; None where it has none that can be read."""
    if path.suffix == ".gguf":
        return promised_size(path)
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
