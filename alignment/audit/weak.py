"""Weak classes: those of which the alignment leaves more than a tenth open, a sentence for each reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.audit.coverage import Balance, Coverage, sides
from vocabridge.alignment.audit.figures import TEXT_CLASSES
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

WEAK = 0.9
"""The share under which a class is weak.

Measured from SmolLM2 to Gemma-3: a total method covers every class whole and, on text that it did not count, gives
words, numbers, punctuation and code 98% of their mass or more; `identical-bytes` covers 29% of the words and 5% of the
numbers.
"""


def weak_classes(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> tuple[str, ...]:
    """Say which classes of tokens the alignment leaves open, by vocabulary alone, without reading any text.

    A class is weak when less than `WEAK` of its ids have an entry, on either side. (Its own counts cannot tell by
    mass: what they lack weighs nothing in them.) CONTROL is left out: such tokens have partners by role, and
    most have none. There is a sentence for each weak class and side.
    """
    of_source, of_target = sides(alignment, source, target)
    return tuple(weak(of_target.coverage(), of_source.coverage()))


def weak(targets: Sequence[Coverage], sources: Sequence[Coverage], balances: Sequence[Balance] = ()) -> Iterator[str]:
    """Yield a sentence for each weak class and reason; by mass too, where the figures of a text are there."""
    for c in TEXT_CLASSES:
        reasons = [
            (targets[c].by_vocabulary, "of the target's tokens have a row"),
            (sources[c].by_vocabulary, "of the source's tokens have a column"),
            (targets[c].by_mass, "of the text's target tokens have a row"),
            (sources[c].by_mass, "of the text's source tokens have a column"),
        ]
        if balances:
            reasons.append((balances[c].share, "of the mass arrives on this text"))
        for share, what in reasons:
            if share < WEAK:  # never so for NaN
                yield f"{c.label}: only {share:.1%} {what}."
