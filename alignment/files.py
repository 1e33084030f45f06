"""Writing a file whole or not at all: a reader never sees half of one, an error leaves the old one alone."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from .errors import VocabridgeError


def write_whole(path: str | Path, content: bytes) -> None:
    """Write beside the file and move into place.

    Args:
        path: The file; its folder must exist.
        content: All of it.

    Raises:
        VocabridgeError: The folder is missing or read-only, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(content)
            os.replace(part, path)
        except BaseException:  # an interrupted write leaves nothing behind either
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise VocabridgeError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or name another place."
        ) from error
