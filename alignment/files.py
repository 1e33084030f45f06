"""Files and folders that are there whole or not at all, wherever a process that writes them is killed.

A file is written beside its place and renamed (`write_whole`), and so is a folder (`new_folder`). In a folder that
grows, or whose content is replaced, one process at a time is at work (`at_work`). What a killed process leaves has a
name that the next one takes over when it holds the lock, so nothing piles up. Locks are the system's and end with their
process.
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
"""The file in a folder that says that work in it has begun and is not over."""

PART = ".part"
"""How names end of what is not whole yet."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
"""What file systems without locks say."""


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file beside its place and move it there.

    Of a symbolic link the target is replaced. A device, a pipe or an open file of this process (`/dev/stdout`) is
    written into.

    Args:
        path: The file; its folder must exist.
        content: All of it.

    Raises:
        VocabridgeError: The folder is missing or read-only, the disk is full, or the path is a folder; nothing is left
            behind.
    """
    try:
        if (stream := _open_stream(Path(path))) is not None:
            with stream:
                stream.write(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        if is_link_loop(Path(path)):
            raise VocabridgeError(f"{path}: {LINK_LOOP}.") from error
        raise VocabridgeError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or name another place."
        ) from error


LINK_LOOP = "a symbolic link that leads back to itself; remove it or name another place"


def is_link_loop(path: Path) -> bool:
    """Whether a path leads through symbolic links that never end."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def own_descriptor(path: Path) -> int | None:
    """Return the number of the open file of this process that a path stands for: 1 for `/dev/stdout`; else None."""
    for _ in range(40):  # the links that Linux follows
        parent = os.path.realpath(path.parent)
        if parent in ("/dev/fd", f"/proc/{os.getpid()}/fd") and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            break
        path = Path(parent, os.readlink(path))
    return None


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Give a folder to fill, which is moved to its place at the end; the caller holds a lock for that place.

    Yields:
        An empty folder beside the place.
    """
    part = place.with_name(f".{place.name}{PART}")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir()
        yield part
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[BinaryIO]:
    """Work in a folder, made if absent, while no other process may.

    Its file `LOCK` stays when the work is cut short, so that the next process knows the folder for one to go on in.
    The caller removes it when the work is over. A folder with nothing else in it is left as it was found.

    Yields:
        The file `LOCK`, open to read and write.

    Raises:
        VocabridgeError: Another process is at work in it, or it cannot be written.
    """
    is_new, lock = not folder.exists(), folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _Held(lock, wait=False)
    except BlockingIOError:
        raise VocabridgeError(f"another process is at work in {folder}; wait for it, or name another folder") from None
    except OSError as error:
        if is_link_loop(folder):
            raise VocabridgeError(f"{folder}: {LINK_LOOP}") from error
        raise VocabridgeError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error
    with held as file:
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                if [path.name for path in folder.iterdir()] == [LOCK]:
                    lock.unlink()
                if is_new and not any(folder.iterdir()):
                    folder.rmdir()


class _Held:
    """A file, made if absent, that no other process holds; as a context, it is let go at the end."""

    def __init__(self, path: Path, *, wait: bool) -> None:
        """Open and lock it.

        Raises:
            BlockingIOError: Another process holds it, and one shall not wait.
            OSError: It cannot be opened.
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
            self.file.close()  # whoever held it has moved or removed it

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
    """Open what a path stands for if it is no plain file to be replaced."""
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


def _replace(place: Path, content: bytes) -> None:
    part = place.with_name(f".{place.name}{PART}")
    with _Held(part, wait=True) as file:
        try:
            file.truncate()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, place)
        except BaseException:  # an interrupted write leaves nothing behind either
            part.unlink(missing_ok=True)
            raise
