"""Overlap: which byte strings are tokens of both vocabularies, and how much of the text they make up."""

from __future__ import annotations

from dataclasses import dataclass

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.audit.figures import Ratio
from vocabridge.alignment.builders.identical_bytes import exact_partners
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Overlap:
    """The tokens of the very same bytes.

    Attributes:
        shared: Byte strings that are tokens of both.
        only_source: Byte strings that are tokens of the source alone.
        only_target: Byte strings that are tokens of the target alone.
        paired: Of the shared, those whose two ids have an entry.
        source_mass: The source tokens of the text.
        source_mass_shared: Those of them that have shared bytes.
        target_mass: The target tokens of the text.
        target_mass_shared: Those of them that have shared bytes.
    """

    shared: int
    only_source: int
    only_target: int
    paired: int
    source_mass: int
    source_mass_shared: int
    target_mass: int
    target_mass_shared: int

    of_source = Ratio("shared", of="shared only_source")
    of_target = Ratio("shared", of="shared only_target")
    of_source_mass = Ratio("source_mass_shared", of="source_mass")
    of_target_mass = Ratio("target_mass_shared", of="target_mass")

    @classmethod
    def of(
        cls, alignment: Alignment, source: Vocabulary, target: Vocabulary, in_source: Int64, in_target: Int64
    ) -> Overlap:
        """Compare two vocabularies; `in_source` and `in_target`, (size,), count their tokens in the text."""
        y, w = exact_partners(source, target)
        return cls(
            shared=len(y),
            only_source=len(source.canonical) - len(y),
            only_target=len(target.canonical) - len(y),
            paired=int((alignment.counts[y, w] > 0).sum()),
            source_mass=int(in_source.sum()),
            source_mass_shared=int(in_source[w].sum()),
            target_mass=int(in_target.sum()),
            target_mass_shared=int(in_target[y].sum()),
        )
