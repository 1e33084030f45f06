"""Panics of the tokenizers library, which is written in Rust.

Python gets a panic as a BaseException, which no `except Exception` catches; its class cannot be imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vocabridge.alignment.errors import VocabridgeError


def is_panic(error: BaseException) -> bool:
    """Whether an error is the panic of a library that is written in Rust."""
    return type(error).__name__ == "PanicException" and type(error).__module__.startswith("pyo3")


@contextmanager
def panics_as_errors(name: str) -> Iterator[None]:
    """Turn a panic into an error about the tokenizer of this name.

    Raises:
        VocabridgeError: The tokenizer panics, as for a regular expression that tries too many ways to match.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise VocabridgeError(
            f"{name}: its tokenizer fails ({reason}); a regular expression or a setting in its files is at fault, "
            "so download them again or use another conversion of the model."
        ) from error
