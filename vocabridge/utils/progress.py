"""Progress callbacks for long-running work. The default does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], object]
"""Called after every step with the number of steps done, their total, and a text that describes the step."""


def no_progress(done: int, total: int, what: str) -> None:
    """Ignore the progress of the work."""
