"""Where the tokens of two vocabularies stand in one text: the target tokens that can be charged, and how they lie."""

from __future__ import annotations

import bisect
import enum
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Vocabulary


class Fit(enum.Enum):
    """How target and source tokens lie in a stretch between two common boundaries.

    Attributes:
        EQUAL: One target token, one source token.
        LONGER: One target token that several source tokens make up.
        SHORTER: Several target tokens inside one source token.
        CROSSED: Several of both.
    """

    EQUAL = "equal"
    LONGER = "target longer"
    SHORTER = "target shorter"
    CROSSED = "crossed"

    @classmethod
    def of(cls, targets: int, sources: int) -> Fit:
        """The fit of so many target tokens with so many source tokens."""
        if targets == 1:
            return cls.EQUAL if sources == 1 else cls.LONGER
        return cls.SHORTER if sources == 1 else cls.CROSSED


@dataclass(frozen=True)
class Place:
    """A target token of a text.

    Attributes:
        token: The target token.
        start: The byte at which it starts.
        length: Its bytes.
        sources: The source's tokens between the two common boundaries around it.
        share: Of the bytes between these, the share that is its own.
        fit: How the tokens lie here.
    """

    token: int
    start: int
    length: int
    sources: slice
    share: float
    fit: Fit


@dataclass(frozen=True)
class Places:
    """The tokens of a text.

    Attributes:
        tokens: The target's.
        sources: The source's.
        places: The target tokens that can be charged, the last ones: those from the second common boundary on.
        common: How many of these start where a source token does.
    """

    tokens: list[int]
    sources: list[int]
    places: list[Place]
    common: int

    @property
    def first(self) -> int:
        """The index of the first token that can be charged."""
        return len(self.tokens) - len(self.places)


def places(source: Vocabulary, target: Vocabulary, text: str) -> Places:
    """Lays the tokens of two vocabularies over one text."""
    ours, theirs = source.encode_prompt(text), target.encode_prompt(text)
    started = theirs.starts >= 0
    tokens, starts = theirs.ids[started].tolist(), theirs.starts[started].tolist()
    own_starts = np.maximum.accumulate(ours.starts).tolist()  # one without a start is with the one before it
    shared = sorted((set(starts[1:]) - {0}) & set(own_starts))  # a first token has nothing in front of it
    found: list[Place] = []
    size = len(text.encode())
    first = bisect.bisect_left(starts, shared[0]) if shared else len(tokens)
    stretches = [*shared, size]
    for i in range(first, len(tokens)):
        end = starts[i + 1] if i + 1 < len(starts) else size
        low, high = stretches[(n := bisect.bisect(stretches, starts[i])) - 1], stretches[n]
        inside = slice(bisect.bisect_left(own_starts, low), bisect.bisect_left(own_starts, high))
        targets = bisect.bisect_left(starts, high) - bisect.bisect_left(starts, low)
        share, fit = (end - starts[i]) / (high - low), Fit.of(targets, inside.stop - inside.start)
        found.append(Place(tokens[i], starts[i], end - starts[i], inside, share, fit))
    common = sum(place.start in set(own_starts) for place in found)
    return Places(tokens, ours.ids.tolist(), found, common)
