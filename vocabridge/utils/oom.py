"""Whether an error says that memory ran out: Python, torch on a CPU and torch on a GPU each have their own way."""

from __future__ import annotations

_SAYINGS = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what happened; torch's CPU allocator raises a bare RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)
