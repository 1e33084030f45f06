"""Atomic writes: a file or folder is either complete or absent, even if the process that writes it is killed.

A file (`write_atomically`) or folder (`new_folder`) is written under a temporary name and then renamed. A folder that
grows, or whose content is replaced, is used by one process at a time (`locked_folder`). Temporary names are fixed, so
the next process that holds the lock reuses what a killed process left. Locks belong to the operating system and end
with their process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vocabridge.alignment.errors import VocabridgeError

LOCK = ".lock"
"""The name of the file that marks a folder in which work has begun and has not finished."""

PART = ".part"
"""The suffix of the temporary name of an incomplete file or folder."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
"""Error codes of file systems that have no locks."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it.

    A symbolic link stays, and its target is replaced. A device, a pipe or an open file of this process (`/dev/stdout`)
    is written directly.

    Args:
        path: The file; its folder must exist.
        content: The complete content.

    Raises:
        VocabridgeError: The folder is missing or read-only, the disk is full, or the path is a folder. No temporary
            file remains.
    """
    try:
        if (stream := _open_stream(Path(path))) is not None:
            with stream:
                stream.write(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        if is_link_loop(Path(path)):
            raise VocabridgeError(f"{path}: {LINK_LOOP}") from error
        raise VocabridgeError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or name another place"
        ) from error


LINK_LOOP = "a symbolic link that leads back to itself; remove it or name another place"


def is_link_loop(path: Path) -> bool:
    """Whether a path contains a cycle of symbolic links."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def own_descriptor(path: Path) -> int | None:
    """Return the file descriptor of this process that a path names (1 for `/dev/stdout`), or None."""
    for _ in range(40):  # Linux follows at most this many links
        parent = os.path.realpath(path.parent)
        if parent in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            break
        path = Path(parent, os.readlink(path))
    return None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create a folder under a temporary name and rename it when the context ends without an error.

    The caller holds a lock for the path.

    Yields:
        The empty temporary folder, to be filled.
    """
    part = path.with_name(f".{path.name}{PART}")
    shutil.rmtree(part, ignore_errors=True)  # a killed process may have left it
    try:
        part.mkdir()
        yield part
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[BinaryIO]:
    """Hold the lock of a folder, which is made if absent.

    The lock file `LOCK` remains when the work is interrupted, so that the next process can recognize a folder whose
    work it may resume. The caller removes the lock file when the work is complete. If the folder holds nothing else,
    the lock file is removed here, and so is the folder if it is new.

    Yields:
        The file `LOCK`, open to read and write.

    Raises:
        VocabridgeError: Another process holds the lock, or the folder cannot be written.
    """
    is_new, lock = not folder.exists(), folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locked = _LockedFile(lock, wait=False)
    except BlockingIOError:
        raise VocabridgeError(f"another process is at work in {folder}; wait for it, or name another folder") from None
    except OSError as error:
        if is_link_loop(folder):
            raise VocabridgeError(f"{folder}: {LINK_LOOP}") from error
        raise VocabridgeError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error
    with locked as file:
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                if [path.name for path in folder.iterdir()] == [LOCK]:
                    lock.unlink()
                if is_new and not any(folder.iterdir()):
                    folder.rmdir()


class _LockedFile:
    """A file, made if absent, with an exclusive lock that ends with the context."""

    def __init__(self, path: Path, *, wait: bool) -> None:
        """Open and lock the file.

        Raises:
            BlockingIOError: Another process holds the lock, and `wait` is false.
            OSError: The file cannot be opened.
        """
        while True:
            self.file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
            try:
                _lock(self.file, wait=wait)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self.file.fileno()), path.stat()):
                        return
            except BaseException:
                self.file.close()
                raise
            self.file.close()  # the process that held the lock has moved or removed this file

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _lock(file: BinaryIO, *, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _open_stream(path: Path) -> BinaryIO | None:
    """Open a path that is written directly (a device, a pipe, a descriptor); return None for a regular file."""
    if (number := own_descriptor(path)) is not None:
        sys.stdout.flush()
        return os.fdopen(os.dup(number), "wb")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    return None if stat.S_ISREG(mode) else path.open("wb")


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}{PART}")
    with _LockedFile(part, wait=True) as file:
        try:
            file.truncate()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:  # an interrupt, too, leaves no temporary file
            part.unlink(missing_ok=True)
            raise
