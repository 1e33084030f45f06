"""Coverage: how many tokens of each class have entries in the alignment, by vocabulary and, on a text, by mass.

A target token is covered if its row of the counts has an entry, so a source token is aligned with it. A source token is
covered if its column has an entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.arrays import Int8, Int64
from vocabridge.alignment.audit.figures import CLASSES, Ratio
from vocabridge.alignment.tokenizers.classes import TokenClass, classes_of
from vocabridge.alignment.tokenizers.tokens import TokenKind
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Numbers: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Coverage:
    """The coverage of the tokens of one class of one vocabulary.

    Masses are sums over the common occurrences, at each of which the source token has mass 1.

    Attributes:
        token_class: The class; None for all classes together.
        ids: The number of ids of the class: those that stand for bytes, or, of the class CONTROL, control tokens.
        covered: The number of these ids that have an entry.
        occurrences: The number of the text's tokens of the class.
        covered_occurrences: The number of occurrences whose id has an entry.
        common: The number of occurrences that start where a token of the other tokenizer starts.
        arrived: The mass on the target token that starts at the same byte.
        same_class: The mass on other target tokens of that token's class.
        other_class: The mass on target tokens of other classes.
        bits: The sum of the bits lost at common occurrences.
        least_bits: The sum of the bits that the best static projection for this text would lose.
        kept: The mean mass on the target token that starts at the same byte and on others of its class.
    """

    token_class: TokenClass | None
    ids: int = 0
    covered: int = 0
    occurrences: int = 0
    covered_occurrences: int = 0
    common: int = 0
    arrived: float = 0.0
    same_class: float = 0.0
    other_class: float = 0.0
    bits: float = 0.0
    least_bits: float = 0.0

    by_vocabulary = Ratio("covered", of="ids")
    by_mass = Ratio("covered_occurrences", of="occurrences")
    at_boundaries = Ratio("common", of="occurrences")
    arriving = Ratio("arrived", of="common")
    kept = Ratio("arrived same_class", of="common")

    @property
    def nowhere(self) -> float:
        """The mass that no target token gets."""
        return max(0.0, self.common - self.arrived - self.same_class - self.other_class)

    bits_each = Ratio("bits", of="common")
    least_bits_each = Ratio("least_bits", of="common")


@dataclass(frozen=True)
class Balance:
    """The mass that a class of target tokens gets, beside the mass that it should get.

    A source token may be aligned with tokens of several classes, over which it rightly spreads its mass. A class is
    therefore judged by its sum of mass. If it gets less than it should, the alignment lacks tokens of the class.

    Attributes:
        token_class: The class.
        due: The mass that the class should get: the number of its target tokens at common boundaries.
        got: The mass that is projected to the class at all common boundaries.
        share: The mass that the class gets, relative to the mass that it should get; above 1 if it gets too much.
    """

    token_class: TokenClass
    due: int
    got: float

    share = Ratio("got", of="due")


@dataclass(frozen=True)
class Entries:
    """The number of ids that stand for bytes, by their number of entries.

    Attributes:
        none: Ids without an entry.
        one: Ids with one entry.
        few: Ids with two to five entries.
        many: Ids with more than five entries.
        by_power: Item k is the number of ids with more than 2^(k-1) and at most 2^k entries.
    """

    none: int
    one: int
    few: int
    many: int
    by_power: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One of the two vocabularies of an alignment.

    Attributes:
        vocabulary: S or T.
        classes: (size,) int8, the `TokenClass` of each id.
        sizes: (size,) int64, the number of entries in each id's row (for T) or column (for S).
    """

    vocabulary: Vocabulary
    classes: Int8
    sizes: Int64

    def per_class(self, ids: Numbers, weights: Numbers | None = None) -> Numbers:
        """Return the number of ids in each class, or the sum of their weights, (classes,); ids may be a mask."""
        return np.bincount(self.classes[ids], weights, len(CLASSES))

    def coverage(self, **on_text: Numbers) -> tuple[Coverage, ...]:
        """Count the ids of each class.

        Args:
            on_text: The fields of `Coverage` that depend on a text, (classes,) each.
        """
        used = self.vocabulary.kinds != TokenKind.UNUSED
        figures = {"ids": self.per_class(used), "covered": self.per_class(used & (self.sizes > 0)), **on_text}
        return tuple(Coverage(c, **{name: values[c].item() for name, values in figures.items()}) for c in CLASSES)

    def entries(self) -> Entries:
        """Count the ids that stand for bytes by their number of entries."""
        sizes = self.sizes[self.vocabulary.usable]
        none, one, few, many = np.bincount(np.searchsorted((1, 2, 6), sizes, side="right"), minlength=4).tolist()
        powers = np.bincount(np.ceil(np.log2(sizes[sizes > 0])).astype(np.int64))
        return Entries(none, one, few, many, by_power=tuple(powers.tolist()))


def sides(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> tuple[Side, Side]:
    """Return the source's side and the target's side of an alignment."""
    rows, columns = np.diff(alignment.counts.indptr), np.bincount(alignment.counts.indices, minlength=source.size)
    return Side(source, classes_of(source), columns), Side(target, classes_of(target), rows.astype(np.int64))
