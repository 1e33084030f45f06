"""Final answers of word problems: what a generation says, when it has said it, and whether it is right.

The format is GSM8K's: the last line is `#### N`. A model that does not know the format is not punished for it:
without such a line, the last number of its text counts.
"""

from __future__ import annotations

import re

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_MARKED = re.compile(rf"####\s*[$€£]?\s*({_NUMBER})")
_COMPLETE = re.compile(rf"####\s*[$€£]?\s*{_NUMBER}\s*\n")


def final_number(text: str) -> float | None:
    """The number after the first `####`, else the last number; None where there is none."""
    marked = _MARKED.search(text)
    numbers = [marked[1]] if marked else re.findall(_NUMBER, text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def is_complete(text: str) -> bool:
    """Whether the line with the final answer is finished."""
    return _COMPLETE.search(text) is not None


def is_correct(text: str, answer: str) -> bool:
    """Whether the final number equals the answer's."""
    expected = final_number(answer)
    return expected is not None and final_number(text) == expected
