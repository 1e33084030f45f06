"""The ranges of numeric settings; the command line and the Python API both reject values outside of them.

Without a check, a number that is not finite, or is so small or large that arithmetic fails, would be noticed late or
never. For example, a learning rate of NaN trains NaNs, and a temperature of 1e-320 divides by zero. This module
imports nothing heavy.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A range of numbers, such as `0.3 in Range(0, 1)`.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        whole: Whether only whole numbers are in the range.
        above: Whether `low` itself is excluded.
        below: Whether `high` itself is excluded.
        also: A further number in the range with a special meaning, such as 0 for "off".
    """

    low: float
    high: float
    whole: bool = False
    above: bool = False
    below: bool = False
    also: float | None = None

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if self.whole else numbers.Real):
            return False
        number = int(value) if isinstance(value, numbers.Integral) else float(value)
        if number == self.also:
            return True
        if not -math.inf < number < math.inf:
            return False
        is_high_enough = number > self.low if self.above else number >= self.low
        return is_high_enough and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        description = "a whole number" if self.whole else "a number"
        if self.above or self.below:
            description += f" {'above' if self.above else 'from'} {_plain(self.low)} "
            description += f"{'to below' if self.below else 'to'} {_plain(self.high)}"
        else:
            description += f" from {_plain(self.low)} to {_plain(self.high)}"
        return description if self.also is None else f"{self.also:g}, or {description}"

    def check(self, name: str, value: Any) -> None:
        """Raise an error if a number is not in the range.

        Args:
            name: Name of the setting, for the message.
            value: Value of the setting.

        Raises:
            VocabridgeError: The value is not in the range.
        """
        if value not in self:
            from vocabridge.alignment.errors import VocabridgeError  # imports all of alignment

            raise VocabridgeError(f"{name} cannot be {value}; give {self}")


def _plain(number: float) -> str:
    return f"{number:,}".replace(",", "") if isinstance(number, int) else f"{number:g}"


COUNT = Range(1, 10**9, whole=True)
"""A number of things, which fits into 32 bits."""

COUNT_OR_NONE = Range(0, 10**9, whole=True)

SEED = Range(0, 2**32 - 1, whole=True)
"""Seeds that numpy, torch and Python all accept."""

PROCESSES = Range(1, 1024, whole=True)
BEAMS = Range(1, 128, whole=True)
RANK = Range(1, 65536, whole=True)
TEXT_LENGTH = Range(2, 10**9, whole=True)
TEMPERATURE = Range(1e-3, 1000, also=0)
TOP_P = Range(0, 1, above=True)
TOLERANCES = Range(0, 1, below=True)
STRENGTH = Range(-1000, 1000)
LEARNING_RATE = Range(1e-12, 1)
WEIGHT = Range(0, 10**6)
"""Weight of a term of the loss."""

FRACTION = Range(0, 1)
HELD_OUT = Range(0, 1, above=True, below=True)
"""Share of the data that is held out for validation."""
