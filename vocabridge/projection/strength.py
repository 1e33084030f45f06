"""The strength alpha of a steering: a number, or a schedule that changes it along the response.

    alpha(n) = start + (end - start) min(n / tokens, 1)

where n counts the base's tokens since the prompt. A falling schedule steers the beginning of a response most, where
post-training changes most (its form and tone), and leaves the rest to the base model. A rising schedule leaves the
beginning to the base. As text a strength is "0.5", or "1:0.2:64" for start:end:tokens. In JSON it is a number or an
object.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from torch import Tensor

from vocabridge.alignment import VocabridgeError
from vocabridge.utils.ranges import COUNT, STRENGTH


@dataclass(frozen=True)
class Schedule:
    """A strength that changes linearly from one value to another and then stays constant.

    Attributes:
        start: alpha at the first token after the prompt, and in the prompt.
        end: alpha from the token with number `tokens` on.
        tokens: Over how many of the base's tokens alpha changes, at least 1.
    """

    start: float
    end: float
    tokens: int

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VocabridgeError: A value is out of range.
        """
        if self.start not in STRENGTH or self.end not in STRENGTH:
            raise VocabridgeError(
                f"a strength cannot go from {self.start} to {self.end}; give finite numbers from -1000 to 1000"
            )
        if self.tokens not in COUNT:
            raise VocabridgeError(f"a strength cannot change within {self.tokens} tokens; give at least 1")


Strength: TypeAlias = float | Schedule


def alpha(strength: Strength, n: Tensor) -> Tensor | float:
    """Return the strength at some positions.

    Args:
        strength: A constant strength or a schedule.
        n: The number of the base's tokens since the prompt at each position, int64 (rows,); below 0 in the prompt.

    Returns:
        A constant strength unchanged; of a schedule, float32 (rows, 1), exactly `start` before it and `end` after it.
    """
    if not isinstance(strength, Schedule):
        return strength
    progress = (n.unsqueeze(-1).float() / strength.tokens).clamp(0.0, 1.0)
    return strength.start * (1 - progress) + strength.end * progress


def is_zero(strength: Strength) -> bool:
    """Return whether the strength is 0 everywhere, so that the value source need not run."""
    if isinstance(strength, Schedule):
        return strength.start == strength.end == 0
    return strength == 0


def parse(text: str) -> Strength:
    """Parse a strength from a command line: "0.5", or "1:0.2:64" for start:end:tokens.

    Raises:
        VocabridgeError: The text is neither.
    """
    parts = text.split(":")
    try:
        if len(parts) == 1 and (number := float(text)) in STRENGTH:
            return number
        if len(parts) == 3:
            return Schedule(float(parts[0]), float(parts[1]), int(parts[2]))
    except ValueError:
        pass
    raise VocabridgeError(f"{text!r} is no strength; give a number such as 0.5, or start:end:tokens such as 1:0.2:64")


def as_json(strength: Strength) -> float | dict[str, float | int]:
    """Return the JSON form of a strength: a number, or an object with `start`, `end` and `tokens`."""
    return asdict(strength) if isinstance(strength, Schedule) else strength


def from_json(value: Any) -> Strength:
    """Return the strength of a JSON form that `as_json` made.

    Raises:
        VocabridgeError: The value is not a strength.
    """
    if value in STRENGTH:
        return float(value)
    if isinstance(value, dict) and set(value) == {"start", "end", "tokens"}:
        try:
            return Schedule(float(value["start"]), float(value["end"]), int(value["tokens"]))
        except (TypeError, ValueError):
            pass
    raise VocabridgeError(f"{value!r} is no strength; give a number, or an object with start, end and tokens")
