"""A cache of the SHA-256 digests of large files, so that an unchanged file is read only once.

An entry holds the file's size, its inode, and the times of the last change of its content (mtime) and of its inode
(ctime), in nanoseconds. A program cannot set ctime, so a file that is replaced, or edited and given its old mtime, is
read again. Changes that the system does not date go unnoticed: on the disk below the file system, on a network drive
whose server does not report them, or after the clock was set back. The digest of a file that changed in the last 2 s
is not cached, because its next change may bear the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from vocabridge.alignment import VocabridgeError, cache_folder, write_atomically
from vocabridge.alignment.jsonio import read_json
from vocabridge.utils.hashing import digest, file_digest

LARGE = 32 << 20
"""The size in bytes from which a file's digest is cached; hashing a smaller file takes no time."""

_RECENT = 2 * 10**9  # nanoseconds


def cached_file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, from the cache if the file is large and has not changed.

    If the cache folder cannot be written, the file is read again at the next call.

    Raises:
        OSError: The file cannot be read.
    """
    started, before = time.time_ns(), path.stat()
    if before.st_size < LARGE:
        return file_digest(path)
    real = os.path.realpath(path)
    entry = cache_folder() / "digests" / f"{digest(os.fsencode(real))}.json"
    entry_key = {"file": real, "state": _state(before)}
    with contextlib.suppress(OSError, ValueError):
        cached = read_json(entry)
        if isinstance(cached, dict) and cached == entry_key | {"sha256": cached.get("sha256")}:
            return str(cached["sha256"])
    sha256 = file_digest(path)
    is_settled = max(before.st_mtime_ns, before.st_ctime_ns) < started - _RECENT
    if is_settled and _state(path.stat()) == _state(before):
        with contextlib.suppress(OSError, VocabridgeError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(entry, json.dumps(entry_key | {"sha256": sha256}).encode())
    return sha256


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
