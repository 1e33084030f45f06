"""Final answers: `Extractor` finds one in a text, knows when it is complete, and compares it with the right one.

The default format is that of GSM8K, whose last line is `#### N`. A model that does not know this format is not
penalized, because the last number of its text counts where such a line is missing. A task with another format needs a
pattern.
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
        pattern: A regular expression. The answer is the first group of its first match, or all of the match if the
            pattern has no group. If None, the answer is the number after the first `####`, else the last number.
    """

    pattern: str | None = None

    def __post_init__(self) -> None:
        """Check the pattern.

        Raises:
            VocabridgeError: The pattern is not a regular expression.
        """
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise VocabridgeError(f"{self.pattern!r} is not a regular expression ({error}); correct it") from None

    def find(self, text: str) -> str | None:
        """Return the final answer without surrounding whitespace, or None if there is none."""
        if match := self._match(text):
            return (match[1] if match.re.groups else match[0] or "").strip()
        if self.pattern is None and (numbers := re.findall(_NUMBER, text)):
            return str(numbers[-1])
        return None

    def is_complete(self, text: str) -> bool:
        """Return whether the line with the final answer has ended."""
        match = self._match(text)
        return match is not None and "\n" in text[match.end() :]

    def is_correct(self, text: str, answer: str) -> bool:
        """Return whether the text's final answer is `answer`: the same number, or the same text ignoring case."""
        extracted = self.find(text)
        return extracted is not None and _normalized(extracted) == _normalized(answer)

    def _match(self, text: str) -> re.Match[str] | None:
        return re.search(self.pattern or _MARKED, text)


def _normalized(answer: str) -> float | str:
    """Return a number, without its currency sign and thousands separators, or else the text in lower case."""
    number = re.fullmatch(rf"[$€£]?\s*({_NUMBER})", answer.strip())
    return float(number[1].replace(",", "")) if number else answer.strip().casefold()
