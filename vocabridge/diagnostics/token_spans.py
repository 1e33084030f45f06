"""How the tokens of two vocabularies lie in one text: the target tokens to score, and the source tokens around each."""

from __future__ import annotations

import bisect
import enum
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Vocabulary


class SpanRelation(enum.Enum):
    """How target and source tokens lie in a stretch of text between two neighboring common boundaries.

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
    def of(cls, targets: int, sources: int) -> SpanRelation:
        """Return the relation of so many target tokens to so many source tokens."""
        if targets == 1:
            return cls.EQUAL if sources == 1 else cls.LONGER
        return cls.SHORTER if sources == 1 else cls.CROSSED


@dataclass(frozen=True)
class TokenSpan:
    """A target token in a text.

    Attributes:
        token: Its id.
        start: The byte at which it starts.
        length: Its length in bytes.
        sources: The source's tokens in the stretch between the common boundaries around it.
        share: The share of the bytes of this stretch that the token has.
        relation: How the tokens of the stretch lie.
    """

    token: int
    start: int
    length: int
    sources: slice
    share: float
    relation: SpanRelation


@dataclass(frozen=True)
class AlignedSpans:
    """The tokens of one text in two vocabularies.

    Attributes:
        target_ids: The target's tokens.
        source_ids: The source's tokens.
        spans: The target tokens that are scored: all from the first common boundary inside the text on.
        common: How many of these start where a source token starts.
    """

    target_ids: list[int]
    source_ids: list[int]
    spans: list[TokenSpan]
    common: int

    @property
    def first(self) -> int:
        """The index in `target_ids` of the first token that is scored."""
        return len(self.target_ids) - len(self.spans)


def align_spans(source: Vocabulary, target: Vocabulary, text: str) -> AlignedSpans:
    """Find how the tokens of two vocabularies lie in a text.

    The tokens before the first common boundary inside the text are not scored, because a model without a bos token
    cannot predict the first one.
    """
    source_encoding, target_encoding = source.encode_prompt(text), target.encode_prompt(text)
    has_start = target_encoding.starts >= 0
    target_ids, starts = target_encoding.ids[has_start].tolist(), target_encoding.starts[has_start].tolist()
    # A source token without a start of its own counts to the one before it.
    source_starts = np.maximum.accumulate(source_encoding.starts).tolist()
    common_starts = sorted((set(starts[1:]) - {0}) & set(source_starts))
    spans: list[TokenSpan] = []
    size = len(text.encode())
    first = bisect.bisect_left(starts, common_starts[0]) if common_starts else len(target_ids)
    boundaries = [*common_starts, size]
    for i in range(first, len(target_ids)):
        end = starts[i + 1] if i + 1 < len(starts) else size
        stretch = bisect.bisect(boundaries, starts[i])
        low, high = boundaries[stretch - 1], boundaries[stretch]
        sources = slice(bisect.bisect_left(source_starts, low), bisect.bisect_left(source_starts, high))
        targets = bisect.bisect_left(starts, high) - bisect.bisect_left(starts, low)
        share, relation = (end - starts[i]) / (high - low), SpanRelation.of(targets, sources.stop - sources.start)
        spans.append(TokenSpan(target_ids[i], starts[i], end - starts[i], sources, share, relation))
    common = sum(span.start in set(source_starts) for span in spans)
    return AlignedSpans(target_ids, source_encoding.ids.tolist(), spans, common)
