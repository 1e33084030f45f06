"""Digits: how both tokenizers cut numbers, and what each of the source's digits becomes."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vocabridge.alignment.audit.projected_mass import ProjectedMass
from vocabridge.alignment.audit.tokens import Share, Token, largest, readable
from vocabridge.alignment.tokenizers.classes import TokenClass
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_RUN = "1234567"
_SAMPLES = ("7", " 7", "10", " 10", "2024", " 2024", "1,234.5", _RUN)


class Grouping(enum.Enum):
    """How a tokenizer cuts a run of digits, judged by "1234567"."""

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
    """What a tokenizer does with digits.

    Attributes:
        grouping: How it cuts a run of digits.
        space_joined: Whether " 7" is one token.
        ones: How many of "0".."9" are one token.
        tens: How many of "10".."99" are one token.
        hundreds: How many of "100".."999" are one token.
        cuts: Some texts -> the pieces they are cut into, as `readable` shows them.
    """

    grouping: Grouping
    space_joined: bool
    ones: int
    tens: int
    hundreds: int
    cuts: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> DigitHabits:
        """Try a tokenizer on some numbers."""

        def pieces(texts: Iterable[str]) -> list[tuple[bytes, ...]]:
            cut = vocabulary.segment_batch([text.encode() for text in texts])
            return [tuple(vocabulary.token_bytes[i] or b"" for i in ids) for ids in cut]

        def whole(first: int, end: int) -> int:
            return sum(len(cut) == 1 for cut in pieces(map(str, range(first, end))))

        cuts = dict(zip(_SAMPLES, pieces(_SAMPLES), strict=True))
        return cls(
            grouping=_GROUPINGS.get(cuts[_RUN], Grouping.OTHER),
            space_joined=cuts[" 7"] == (b" 7",),
            ones=whole(0, 10),
            tens=whole(10, 100),
            hundreds=whole(100, 1000),
            cuts={text: tuple(map(readable, cut)) for text, cut in cuts.items()},
        )


@dataclass(frozen=True)
class DigitFlow:
    """What one source digit becomes.

    Attributes:
        source: The digit's token.
        to_itself: The mass on target tokens of the very same bytes.
        to_numbers: The mass on target tokens that are numbers, itself among them.
        to: The target tokens that get most, largest first.
    """

    source: Token
    to_itself: float
    to_numbers: float
    to: tuple[Share, ...]


def digit_flows(projected: ProjectedMass) -> Iterator[DigitFlow]:
    """Yield what each of "0".."9" becomes, of those that are tokens of the source."""
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
