"""Recognize out-of-memory errors, which Python, torch on a CPU and torch on a GPU each report differently."""

from __future__ import annotations

_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
