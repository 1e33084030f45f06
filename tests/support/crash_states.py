"""Keeps what a kill would leave of a command's files, at every file-system call that it makes.

`record` copies a folder in front of every call of this process that opens a file to write, renames, removes, makes a
folder or syncs. Such a copy is what a process that is killed there leaves on the disk: buffers that are not flushed are
not in it, and no `finally` has run. In front of a sync there is a second copy, in which the second half of the file is
missing. The command server calls it where the variable RECORD_CRASH_STATES names a folder for the copies.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

_CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def record(folder: Path, copies: Path) -> None:
    """Record from now on to the end of this process.

    Args:
        folder: What to copy.
        copies: A new folder for the copies, which are called 0, 1, 2 and so on.
    """
    copies.mkdir()
    recorder, sync = _Recorder(folder, copies), os.fsync

    def fsync(descriptor: int) -> None:
        recorder.copy()
        recorder.copy(torn=os.fstat(descriptor).st_ino)
        sync(descriptor)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            recorder.copy()

    os.fsync = fsync
    sys.addaudithook(hear)


def put_back(state: Path, folder: Path) -> None:
    """Make a folder what it was in a state."""
    shutil.rmtree(folder)
    shutil.copytree(state, folder, symlinks=True)


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder: digests of files, by their paths."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


class _Recorder:
    def __init__(self, folder: Path, copies: Path) -> None:
        self._folder, self._copies = folder, copies
        self._seen: list[dict[str, str]] = []
        self._number, self._busy = 0, False

    def copy(self, torn: int | None = None) -> None:
        """Copy the folder, unless it is as it was before; of a file by its inode only the first half."""
        if self._busy:  # with a copy
            return
        self._busy = True
        now, place = contents(self._folder), self._copies / str(self._number)
        if torn is not None or now not in self._seen:
            self._seen.append(now)
            self._number += 1
            shutil.copytree(self._folder, place, symlinks=True)
            for path in self._folder.rglob("*") if torn else ():
                if path.stat().st_ino == torn:
                    os.truncate(place / path.relative_to(self._folder), path.stat().st_size // 2)
        self._busy = False
