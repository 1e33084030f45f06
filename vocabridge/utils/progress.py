"""How long work tells what it is doing: a callable, told of every step; by default nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], object]
"""Called with (done, total, what is going on)."""


def no_progress(done: int, total: int, what: str) -> None:
    """Tell nobody."""
