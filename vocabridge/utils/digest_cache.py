"""SHA-256 of large files, each read once: the cache folder remembers the digest of a file that stays as it is.

An entry holds what the system says about the file: size, inode, and the times when content and inode changed last, in
nanoseconds. A program cannot set the last of these, so a file that is replaced, or edited and given its old date, is
read again. What goes unnoticed is a change that the system does not date: of the disk under the file, of a network
drive whose server does not tell, or under a clock that was set back. A file that was changed in the last 2 s is not
remembered, because its next change may bear the same date.
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
"""The size in bytes from which a file's digest is remembered; smaller ones take no time."""

_RECENT = 2 * 10**9  # nanoseconds


def cached_file_digest(path: Path) -> str:
    """Return the hash of a file's content; of a large file that has not changed since the last call, the one of then.

    A cache folder that cannot be written costs time only.

    Raises:
        OSError: The file cannot be read.
    """
    started, before = time.time_ns(), path.stat()
    if before.st_size < LARGE:
        return file_digest(path)
    real = os.path.realpath(path)
    entry = cache_folder() / "digests" / f"{digest(os.fsencode(real))}.json"
    known = {"file": real, "state": _state(before)}
    with contextlib.suppress(OSError, ValueError):
        remembered = read_json(entry)
        if isinstance(remembered, dict) and remembered == known | {"sha256": remembered.get("sha256")}:
            return str(remembered["sha256"])
    sha256 = file_digest(path)
    is_settled = max(before.st_mtime_ns, before.st_ctime_ns) < started - _RECENT
    if is_settled and _state(path.stat()) == _state(before):
        with contextlib.suppress(OSError, VocabridgeError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(entry, json.dumps(known | {"sha256": sha256}).encode())
    return sha256


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
