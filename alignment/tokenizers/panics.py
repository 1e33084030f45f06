"""Panics of the tokenizers library, which is written in Rust.

Python gets a panic as a BaseException, which no `except Exception` catches; its class cannot be imported. Before that,
Rust writes lines of its own to file descriptor 2, which nothing but another descriptor 2 keeps away.
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
"""All that Rust writes about panics, from the first to the last."""

_written: dict[int, int] = {}
"""By process, the descriptor of a file that takes what is written to stderr during a call."""

_is_kept_away = False


def is_panic(error: BaseException) -> bool:
    """Whether an error is the panic of a library that is written in Rust."""
    return type(error).__name__ == "PanicException" and type(error).__module__.startswith("pyo3")


@contextmanager
def panics_as_errors(name: str) -> Iterator[None]:
    """Turn a panic into an error about the tokenizer of this name, without the lines that Rust writes about it.

    In the main thread, what is written to stderr appears when the call is over; in another thread, which cannot change
    the process's stderr for all, Rust's lines appear.

    Raises:
        VocabridgeError: The tokenizer panics, as for a regular expression that tries too many ways to match.
    """
    try:
        with _panic_lines_kept_away():
            yield
    except BaseException as error:
        if not is_panic(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise VocabridgeError(
            f"{name}: its tokenizer fails ({reason}); a regular expression or a setting in its files is at fault, "
            "so download them again or use another conversion of the model."
        ) from error


@contextmanager
def _panic_lines_kept_away() -> Iterator[None]:
    """Hold back what is written to stderr, and leave out of it what Rust writes about a panic."""
    global _is_kept_away
    if _is_kept_away or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        held = _held_back()
        stderr = os.dup(2)
    except OSError:  # stderr is closed, or no file can be made
        yield
        return
    has_panicked, _is_kept_away = False, True
    try:
        os.dup2(held, 2)
        yield
    except BaseException as error:
        has_panicked = is_panic(error)
        raise
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        _is_kept_away = False
        if length := os.fstat(held).st_size:
            data = os.pread(held, length, 0)
            os.ftruncate(held, 0)
            os.lseek(held, 0, os.SEEK_SET)
            with contextlib.suppress(OSError):
                os.write(2, _PANIC.sub(b"", data) if has_panicked else data)


def _held_back() -> int:
    """Return the descriptor of this process's file for what is held back."""
    if (process := os.getpid()) not in _written:
        with tempfile.TemporaryFile(buffering=0) as file:
            _written[process] = os.dup(file.fileno())
    return _written[process]
