"""The strength alpha of a steering: one number, or one that changes as the answer grows.

    alpha(n) = start + (end - start) min(n / tokens, 1)

where n counts the base's tokens since the prompt. A schedule that falls lets the value source set an answer going
(its form and tone, where post-training changes most) and leaves its body to the base model; one that rises lets
the base begin. In text a strength is "0.5", or "1:0.2:64" for start:end:tokens; in JSON a number or an object.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from torch import Tensor

from vocabridge.alignment import VocabridgeError
from vocabridge.utils.ranges import COUNT, STRENGTH


@dataclass(frozen=True)
class Schedule:
    """A strength that goes in a straight line from one value to another, and stays there.

    Attributes:
        start: alpha at the first token after the prompt, and in the prompt.
        end: alpha from so many `tokens` on.
        tokens: How many of the base's tokens it takes, at least 1.
    """

    start: float
    end: float
    tokens: int

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            VocabridgeError: One is out of range.
        """
        if self.start not in STRENGTH or self.end not in STRENGTH:
            raise VocabridgeError(
                f"a strength cannot go from {self.start} to {self.end}; give finite numbers from -1000 to 1000"
            )
        if self.tokens not in COUNT:
            raise VocabridgeError(f"a strength cannot change within {self.tokens} tokens; give at least 1")


Strength: TypeAlias = float | Schedule


def alpha(strength: Strength, n: Tensor) -> Tensor | float:
    """The strength at some positions.

    Args:
        strength: Constant or by schedule.
        n: The base's tokens since the prompt at every position, int64 (rows,); below 0 in the prompt.

    Returns:
        A constant strength as it is; else float32 (rows, 1), exactly `start` and `end` outside the schedule.
    """
    if not isinstance(strength, Schedule):
        return strength
    gone = (n.unsqueeze(-1).float() / strength.tokens).clamp(0.0, 1.0)
    return strength.start * (1 - gone) + strength.end * gone


def is_zero(strength: Strength) -> bool:
    """Whether it is 0 everywhere, so that nothing needs to run."""
    if isinstance(strength, Schedule):
        return strength.start == strength.end == 0
    return strength == 0


def parse(text: str) -> Strength:
    """A strength from a command line: "0.5", or "1:0.2:64" for start:end:tokens.

    Raises:
        VocabridgeError: That is neither.
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
    """Its JSON form: a number, or an object with `start`, `end` and `tokens`."""
    return asdict(strength) if isinstance(strength, Schedule) else strength


def from_json(value: Any) -> Strength:
    """What `as_json` made.

    Raises:
        VocabridgeError: That is no strength.
    """
    if value in STRENGTH:
        return float(value)
    if isinstance(value, dict) and set(value) == {"start", "end", "tokens"}:
        try:
            return Schedule(float(value["start"]), float(value["end"]), int(value["tokens"]))
        except (TypeError, ValueError):
            pass
    raise VocabridgeError(f"{value!r} is no strength; give a number, or an object with start, end and tokens")
