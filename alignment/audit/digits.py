"""Digits: how both tokenizers cut numbers, and the target tokens aligned with each of the source's digits."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vocabridge.alignment.audit.projected_mass import ProjectedMass
from vocabridge.alignment.audit.tokens import Share, Token, largest, readable
from vocabridge.alignment.tokenizers.classes import TokenClass
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_DIGITS = "1234567"
_SAMPLES = ("7", " 7", "10", " 10", "2024", " 2024", "1,234.5", _DIGITS)


class Grouping(enum.Enum):
    """How a tokenizer groups successive digits, judged by "1234567"."""

    SINGLE = "single digits"
    THREES_FROM_LEFT = "threes from the left"
    THREES_FROM_RIGHT = "threes from the right"
    OTHER = "other groups"


_GROUPINGS = {
    (b"1", b"2", b"3", b"4", b"5", b"6", b"7"): Grouping.SINGLE,
    (b"123", b"456", b"7"): Grouping.THREES_FROM_LEFT,
    (b"1", b"234", b"567"): Grouping.THREES_FROM_RIGHT,
}


@dataclass(frozen=True)
class DigitHabits:
    """How a tokenizer cuts numbers.

    Attributes:
        grouping: How the tokenizer groups successive digits.
        space_joined: Whether " 7" is one token.
        ones: The number of "0".."9" that are one token.
        tens: The number of "10".."99" that are one token.
        hundreds: The number of "100".."999" that are one token.
        cuts: Sample text -> its tokens, as `readable` shows them.
    """

    grouping: Grouping
    space_joined: bool
    ones: int
    tens: int
    hundreds: int
    cuts: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> DigitHabits:
        """Cut sample numbers with a vocabulary's tokenizer."""

        def cut(texts: Iterable[str]) -> list[tuple[bytes, ...]]:
            segmentations = vocabulary.segment_batch([text.encode() for text in texts])
            return [tuple(vocabulary.token_bytes[i] or b"" for i in ids) for ids in segmentations]

        def single_tokens(numbers: range) -> int:
            return sum(len(pieces) == 1 for pieces in cut(map(str, numbers)))

        cuts = dict(zip(_SAMPLES, cut(_SAMPLES), strict=True))
        return cls(
            grouping=_GROUPINGS.get(cuts[_DIGITS], Grouping.OTHER),
            space_joined=cuts[" 7"] == (b" 7",),
            ones=single_tokens(range(10)),
            tens=single_tokens(range(10, 100)),
            hundreds=single_tokens(range(100, 1000)),
            cuts={text: tuple(map(readable, pieces)) for text, pieces in cuts.items()},
        )


@dataclass(frozen=True)
class DigitFlow:
    """The target tokens to which the mass of one source digit is projected.

    Attributes:
        source: The source token of the digit.
        to_itself: The mass on target tokens with the same bytes.
        to_numbers: The mass on all target tokens of the class NUMBERS.
        to: The target tokens that get most of the mass, the largest first.
    """

    source: Token
    to_itself: float
    to_numbers: float
    to: tuple[Share, ...]


def digit_flows(projected: ProjectedMass) -> Iterator[DigitFlow]:
    """Yield the flow of each of the digits "0".."9" that is a source token."""
    source, target = projected.source.vocabulary, projected.target.vocabulary
    for digit in (b"%d" % i for i in range(10)):
        if (w := source.canonical.get(digit)) is not None:
            column = projected.columns[:, [w]].toarray().ravel()
            yield DigitFlow(
                source=Token.of(source, w),
                to_itself=float(column[list(target.ids_of(digit))].sum()),
                to_numbers=float(projected.inside[TokenClass.NUMBERS, w]),
                to=largest(target, column),
            )
