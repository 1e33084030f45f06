"""SHA-256 of bytes, of JSON values and of files, all in hex; and of samples of large files, which takes no time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SMALL = 32 << 20
"""The size in bytes up to which `sampled_digest` reads all of a file."""

_BLOCKS, _BLOCK = 64, 1 << 16  # number, bytes


def digest(data: bytes) -> str:
    """Return the hash of bytes."""
    return joined_digest([data])


def joined_digest(parts: Iterable[bytes]) -> str:
    """Return the hash of parts, one behind the other."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def json_digest(value: Any) -> str:
    """Return the hash of a JSON value, whatever the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def file_digest(path: Path) -> str:
    """Return the hash of a file's content, which takes about 2 s for 1 GB.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return joined_digest(iter(lambda: file.read(1 << 20), b""))


def sampled_digest(files: Iterable[Path]) -> str:
    """Return a hash over the name, the size and the content of files, in this order.

    Of a file above 32 MiB, the content is 64 blocks of 64 KiB, evenly spaced from its first byte to its last. Training
    all weights changes every block; a change between the blocks, of whole tensors too, goes unnoticed.

    Raises:
        OSError: A file cannot be read.
    """
    hashed = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        hashed.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= SMALL:
                hashed.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
                hashed.update(file.read(_BLOCK))
    return hashed.hexdigest()
