"""Final answers: what a text says, when it has said it, and whether it is right.

By default in GSM8K's format, whose last line is `#### N`. A model that does not know the format is not punished for
it: without such a line, the last number of its text counts. A task of another format brings a pattern of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vocabridge.alignment import VocabridgeError

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_MARKED = rf"####\s*[$€£]?\s*({_NUMBER})"


@dataclass(frozen=True)
class Extractor:
    """Finds final answers in texts.

    Attributes:
        pattern: A regular expression; its first match counts, and of that the first group, if it has one. None: the
            number after the first `####`, else the last number.
    """

    pattern: str | None = None

    def __post_init__(self) -> None:
        """Checks the pattern.

        Raises:
            VocabridgeError: It is no regular expression.
        """
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise VocabridgeError(f"{self.pattern!r} is no regular expression ({error}); correct it") from None

    def find(self, text: str) -> str | None:
        """The final answer, without white space around it; None where there is none."""
        if found := self._match(text):
            return (found[1] if found.re.groups else found[0] or "").strip()
        if self.pattern is None and (numbers := re.findall(_NUMBER, text)):
            return str(numbers[-1])
        return None

    def is_complete(self, text: str) -> bool:
        """Whether the line with the final answer is finished."""
        found = self._match(text)
        return found is not None and "\n" in text[found.end() :]

    def is_correct(self, text: str, answer: str) -> bool:
        """Whether the final answer equals the task's: the same number, or the same text but for capitals."""
        found = self.find(text)
        return found is not None and _plain(found) == _plain(answer)

    def _match(self, text: str) -> re.Match[str] | None:
        return re.search(self.pattern or _MARKED, text)


def _plain(answer: str) -> float | str:
    """A number as such, whatever marks its thousands."""
    number = re.fullmatch(rf"[$€£]?\s*({_NUMBER})", answer.strip())
    return float(number[1].replace(",", "")) if number else answer.strip().casefold()
