"""Weak classes: the classes of tokens of which the alignment covers less than nine tenths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.audit.coverage import Balance, Coverage, sides
from vocabridge.alignment.audit.figures import TEXT_CLASSES
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

WEAK = 0.9
"""The share below which a class is weak.

Measured from SmolLM2 to Gemma-3: a method that covers all tokens gives words, numbers, punctuation and code at least
98% of their mass on text that it was not counted on; `identical-bytes` covers 29% of the words and 5% of the numbers.
"""


def weak_classes(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> tuple[str, ...]:
    """Return a sentence for each weak class of tokens of either side, judged by the vocabularies alone.

    A class is weak if less than `WEAK` of its ids have an entry. The alignment's own counts cannot weight the ids,
    because uncovered tokens have no counts. CONTROL is skipped, because control tokens are paired by role, and most
    have no partner.
    """
    source_side, target_side = sides(alignment, source, target)
    return tuple(weak(target_side.coverage(), source_side.coverage()))


def weak(targets: Sequence[Coverage], sources: Sequence[Coverage], balances: Sequence[Balance] = ()) -> Iterator[str]:
    """Yield a sentence for each weak class and reason. The mass on a text is a reason, too, if balances are given."""
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
            if share < WEAK:  # false for NaN, the share of a class without tokens
                yield f"{c.label}: only {share:.1%} {what}."
