"""Input files as users name them: a plain file, a file compressed with gzip, or a pipe.

A pipe is `<(command)`, `/dev/stdin` or a FIFO. It can be read only once, so its content is copied to a temporary file.
"""

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
"""(device, inode) of a pipe -> the temporary copy of its content."""


def plain_file(path: Path) -> Path:
    """Return the file itself or, for a pipe, a temporary copy of its content, which can be read repeatedly.

    The copy is made at the first call and is deleted when the process ends.

    Raises:
        OSError: The pipe cannot be read, or its copy cannot be written.
    """
    try:
        status = path.stat()
    except OSError:
        return path  # the caller reports that the file is missing
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
    """Yield the content of a file or pipe, decompressed if gzip has compressed it, in blocks of at most `size` bytes.

    Raises:
        OSError: The file cannot be read, or its compressed content is damaged.
    """
    file = plain_file(path)
    try:
        with gzip.open(file) if is_gzip(file) else file.open("rb") as stream:
            while block := stream.read(size):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(errno.EIO, "its gzip data is damaged or cut off", str(path)) from error


def content(path: Path) -> bytes:
    """Return the complete content of a file or pipe, as `blocks` yields it.

    Raises:
        OSError: As for `blocks`.
    """
    return b"".join(blocks(path, 1 << 20))


def size(path: Path) -> int:
    """Return the number of bytes that `blocks` yields.

    Raises:
        OSError: As for `blocks`.
    """
    file = plain_file(path)
    return sum(map(len, blocks(file, 1 << 20))) if is_gzip(file) else file.stat().st_size


def refuse_gzip(path: Path) -> None:
    """Refuse a file that gzip has compressed, for a reader that does not decompress.

    Raises:
        VocabridgeError: gzip has compressed the file.
    """
    with contextlib.suppress(OSError):  # the caller reports why the file cannot be read
        if path.is_file() and is_gzip(path):
            raise VocabridgeError(f"{path}: compressed with gzip; decompress it (gunzip) and name the result")


def is_gzip(file: Path) -> bool:
    """Whether gzip has compressed a file, judged by its first bytes and not by its name.

    Raises:
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        return stream.read(len(_GZIP)) == _GZIP


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Create the temporary folder of all copies, once; it is deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="vocabridge-")
