"""Coverage: how much of each class of tokens has entries, by vocabulary and, once a text is read, by mass.

A target token is covered by an entry in its row of the counts (a source token speaks for it), a source token by
one in its column (it becomes a target token).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.audit.figures import CLASSES, Ratio
from vocabridge.alignment.tokenizers.classes import TokenClass, classes_of
from vocabridge.alignment.tokenizers.tokens import Int8, Int64, TokenKind
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Numbers: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Coverage:
    """What the alignment does for the tokens of one class of one vocabulary.

    Attributes:
        token_class: The class; None for all classes together.
        ids: Ids of the class that stand for bytes; of CONTROL, those that steer the model.
        covered: Those of them that have an entry.
        occurrences: Tokens of the class in the text.
        covered_occurrences: Those of the occurrences whose id has an entry.
        common: Those of the occurrences that start where a token of the other tokenizer starts.
        arrived: At these, the mass on the very target token that stands there; in occurrences.
        same_class: The mass on other tokens of that token's class.
        other_class: The mass on tokens of other classes.
        bits: The bits lost at these, together.
        least_bits: What the static projection that is best for this very text would lose.
        kept: The mean mass on the very token and others of its class.
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
        """The mass that no target token gets, in occurrences at common boundaries."""
        return max(0.0, self.common - self.arrived - self.same_class - self.other_class)

    bits_each = Ratio("bits", of="common")
    least_bits_each = Ratio("least_bits", of="common")


@dataclass(frozen=True)
class Balance:
    """The mass a class of target tokens gets, beside what it should get.

    A source token that may become tokens of several classes rightly spreads its mass over them. What counts for
    a class is the sum: less than it should get means that its tokens have been left out.

    Attributes:
        token_class: The class.
        due: Target tokens of the class at common boundaries.
        got: The mass projected to the class there, whatever token stood there; in occurrences.
        share: How much of its mass the class gets; above 1 where it gets too much.
    """

    token_class: TokenClass
    due: int
    got: float

    share = Ratio("got", of="due")


@dataclass(frozen=True)
class Entries:
    """How many of the ids that stand for bytes have none, one, two to five (`few`) or more (`many`) entries.

    Attributes:
        by_power: The k-th is the number of ids with more than 2^(k-1) and at most 2^k entries.
    """

    none: int
    one: int
    few: int
    many: int
    by_power: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One of the two vocabularies, as an alignment has it.

    Attributes:
        vocabulary: S or T.
        classes: (size,) int8, a `TokenClass` each.
        sizes: (size,) int64, entries of each id's row (of T) or column (of S).
    """

    vocabulary: Vocabulary
    classes: Int8
    sizes: Int64

    def per_class(self, ids: Numbers, weights: Numbers | None = None) -> Numbers:
        """Return (classes,), how many of the ids, or what weight of them, is in each class; ids may be a mask."""
        return np.bincount(self.classes[ids], weights, len(CLASSES))

    def coverage(self, **on_text: Numbers) -> tuple[Coverage, ...]:
        """Count the ids of each class; the figures of a text, (classes,) each, go with them."""
        real = self.vocabulary.kinds != TokenKind.UNUSED
        figures = {"ids": self.per_class(real), "covered": self.per_class(real & (self.sizes > 0)), **on_text}
        return tuple(Coverage(c, **{name: values[c].item() for name, values in figures.items()}) for c in CLASSES)

    def entries(self) -> Entries:
        """Count the ids that stand for bytes by how many entries they have."""
        sizes = self.sizes[self.vocabulary.usable]
        none, one, few, many = np.bincount(np.searchsorted((1, 2, 6), sizes, side="right"), minlength=4).tolist()
        powers = np.bincount(np.ceil(np.log2(sizes[sizes > 0])).astype(np.int64))
        return Entries(none, one, few, many, by_power=tuple(powers.tolist()))


def sides(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> tuple[Side, Side]:
    """Return the source's side and the target's."""
    rows, columns = np.diff(alignment.counts.indptr), np.bincount(alignment.counts.indices, minlength=source.size)
    return Side(source, classes_of(source), columns), Side(target, classes_of(target), rows.astype(np.int64))
