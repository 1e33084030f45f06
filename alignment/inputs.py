"""Inputs as users give them: a plain file, text that gzip has packed, a pipe (`<(command)`, `/dev/stdin`, a FIFO)."""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from vocabridge.alignment.errors import VocabridgeError

_GZIP = b"\x1f\x8b"

_copies: dict[tuple[int, int], Path] = {}
"""By device and inode of a pipe, what it gave."""


def plain_file(path: Path) -> Path:
    """Return a file that can be read again and again: this one or, of a pipe, a temporary copy of what it gives.

    A pipe is read once; the copy lasts as long as the process.

    Raises:
        OSError: The pipe cannot be read, or its copy cannot be written.
    """
    try:
        status = path.stat()
    except OSError:
        return path  # whoever reads it says that it is not there
    if not stat.S_ISFIFO(status.st_mode):
        return path
    key = status.st_dev, status.st_ino
    if key not in _copies:
        copy = Path(_scratch().name) / f"{len(_copies)}-{path.name}"
        with path.open("rb") as pipe, copy.open("wb") as file:
            shutil.copyfileobj(pipe, file)
        _copies[key] = copy
    return _copies[key]


def blocks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the content of a file or pipe, unpacked where gzip has packed it, in blocks of so many bytes.

    Raises:
        OSError: It cannot be read, or what gzip has packed is damaged.
    """
    file = plain_file(path)
    try:
        with gzip.open(file) if is_packed(file) else file.open("rb") as stream:
            while block := stream.read(size):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(errno.EIO, "what gzip has packed is damaged or cut off", str(path)) from error


def content(path: Path) -> bytes:
    """Return all of it; see `blocks`."""
    return b"".join(blocks(path, 1 << 20))


def size(path: Path) -> int:
    """Return the number of bytes that `blocks` gives.

    Raises:
        OSError: As for `blocks`.
    """
    file = plain_file(path)
    return sum(map(len, blocks(file, 1 << 20))) if is_packed(file) else file.stat().st_size


def refuse_packed(path: Path) -> None:
    """Raise an error if gzip has packed a file whose reader takes it as it is.

    Raises:
        VocabridgeError: It has.
    """
    with contextlib.suppress(OSError):  # whoever reads it says why
        if path.is_file() and is_packed(path):
            raise VocabridgeError(f"{path}: packed by gzip; unpack it (gunzip) and name the unpacked file.")


def is_packed(file: Path) -> bool:
    """Whether gzip has packed a file, whatever it is called.

    Raises:
        OSError: It cannot be read.
    """
    with file.open("rb") as stream:
        return stream.read(len(_GZIP)) == _GZIP


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """The folder of all copies; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="vocabridge-")
