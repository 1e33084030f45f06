"""SHA-256 digests, in hexadecimal, of bytes, JSON values and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return joined_digest([data])


def joined_digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of the concatenated parts."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return sha256.hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, which does not depend on the order of keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content; 1 GB takes 0.5 to 2 s.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return joined_digest(iter(lambda: file.read(1 << 20), b""))
