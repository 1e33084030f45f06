"""How much the tests try: `make test` a sample of what `make test-thorough` tries.

The quick run draws the same examples each time, so that a commit fails for what it changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings

THOROUGH = os.environ.get("VOCABRIDGE_TESTS") == "thorough"

T = TypeVar("T")

settings.register_profile("quick", max_examples=20, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("thorough" if THOROUGH else "quick")


def examples(thorough: int) -> int:
    """How many examples hypothesis draws: `thorough` of them, or a fifth in the quick run, at least 5."""
    return thorough if THOROUGH else min(thorough, max(5, thorough // 5))


def sample(items: Sequence[T], number: int) -> list[T]:
    """All items, or in the quick run `number` of them, evenly spaced, the first and the last among them."""
    if THOROUGH or len(items) <= number:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, number - 1))] for i in range(number)]
