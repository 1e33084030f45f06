"""Turning panics of the tokenizers library, which is written in Rust, into errors.

A panic reaches Python as a BaseException, which no `except Exception` catches and whose class cannot be imported. Rust
also writes lines about it to file descriptor 2, and only replacing that descriptor can suppress them.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vocabridge.alignment.errors import VocabridgeError

_PANIC = re.compile(rb"\n?thread '[^\n]*panicked at (?:.*\nnote: [^\n]*\n|.*)", re.DOTALL)
"""All that Rust writes about one or several panics."""

_buffers: dict[int, int] = {}
"""Process id -> descriptor of the file that receives what is written to stderr during a call."""

_is_redirected = False


def is_panic(error: BaseException) -> bool:
    """Whether an error is the panic of a library that is written in Rust."""
    return type(error).__name__ == "PanicException" and type(error).__module__.startswith("pyo3")


@contextmanager
def panics_as_errors(name: str) -> Iterator[None]:
    """Turn a panic into an error about the tokenizer of this name, and suppress the lines that Rust writes about it.

    In the main thread, all other output to stderr appears when the context ends. In other threads Rust's lines are not
    suppressed, because redirecting stderr would affect the whole process.

    Args:
        name: The name of the tokenizer, for the error.

    Raises:
        VocabridgeError: The tokenizer panics, for example because a regular expression backtracks too often.
    """
    try:
        with _panic_lines_suppressed():
            yield
    except BaseException as error:
        if not is_panic(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise VocabridgeError(
            f"{name}: its tokenizer fails ({reason}) because of a regular expression or a setting in its files; "
            "download the files again or use another conversion of the model"
        ) from error


@contextmanager
def _panic_lines_suppressed() -> Iterator[None]:
    """Redirect stderr to a file, and write it to stderr at the end without Rust's lines about a panic."""
    global _is_redirected
    if _is_redirected or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        buffer = _buffer()
        stderr = os.dup(2)
    except OSError:  # stderr is closed, or no file can be made
        yield
        return
    has_panicked, _is_redirected = False, True
    try:
        os.dup2(buffer, 2)
        yield
    except BaseException as error:
        has_panicked = is_panic(error)
        raise
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        _is_redirected = False
        if length := os.fstat(buffer).st_size:
            data = os.pread(buffer, length, 0)
            os.ftruncate(buffer, 0)
            os.lseek(buffer, 0, os.SEEK_SET)
            with contextlib.suppress(OSError):
                os.write(2, _PANIC.sub(b"", data) if has_panicked else data)


def _buffer() -> int:
    """Return the descriptor of the file to which this process redirects stderr; the file is made once."""
    if (process := os.getpid()) not in _buffers:
        with tempfile.TemporaryFile(buffering=0) as file:
            _buffers[process] = os.dup(file.fileno())
    return _buffers[process]
