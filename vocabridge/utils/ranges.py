"""The numbers that settings may be, each range in one place: the command line and the Python API refuse the others.

A number that is not finite, or so small or large that arithmetic fails, would be found out late or never: a learning
rate of NaN trains NaNs, a temperature of 1e-320 divides by zero. This module imports nothing heavy.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers from one to another, both of them in it unless said otherwise.

    Attributes:
        low: The least.
        high: The greatest.
        whole: Whether they are whole numbers.
        above: Whether `low` itself is out.
        below: Whether `high` itself is out.
        also: One more number that has a meaning of its own, such as 0 for "off".
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
        what = "a whole number" if self.whole else "a number"
        if self.above or self.below:
            what += f" {'above' if self.above else 'from'} {_plain(self.low)} "
            what += f"{'to below' if self.below else 'to'} {_plain(self.high)}"
        else:
            what += f" from {_plain(self.low)} to {_plain(self.high)}"
        return what if self.also is None else f"{self.also:g}, or {what}"

    def check(self, name: str, value: Any) -> None:
        """Refuse a number that is not in it.

        Args:
            name: The setting, as the caller gave it.
            value: Its value.

        Raises:
            VocabridgeError: The value is not in the range.
        """
        if value not in self:
            from vocabridge.alignment.errors import VocabridgeError  # with all of alignment

            raise VocabridgeError(f"{name} cannot be {value}; give {self}")


def _plain(number: float) -> str:
    return f"{number:,}".replace(",", "") if isinstance(number, int) else f"{number:g}"


COUNT = Range(1, 10**9, whole=True)
"""How many of something; more are not counted in 32 bits."""

COUNT_OR_NONE = Range(0, 10**9, whole=True)

SEED = Range(0, 2**32 - 1, whole=True)
"""What numpy takes, and torch and Python too."""

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
"""Of a term of a loss."""

FRACTION = Range(0, 1)
HELD_OUT = Range(0, 1, above=True, below=True)
"""The share of data that is validated on."""
