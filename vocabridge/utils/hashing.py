"""SHA-256 of bytes, of JSON values and of files, all in hex."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


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
    """Return the hash of a file's content, which takes 0.5 to 2 s for 1 GB.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return joined_digest(iter(lambda: file.read(1 << 20), b""))
