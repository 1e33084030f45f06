"""Overlap: the byte strings that are tokens of both vocabularies, and their share of the text."""

from __future__ import annotations

from dataclasses import dataclass

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.audit.figures import Ratio
from vocabridge.alignment.builders.identical_bytes import exact_partners
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Overlap:
    """The numbers of shared tokens, in the vocabularies and in the text.

    Attributes:
        shared: The number of byte strings that are tokens of both vocabularies.
        only_source: The number of byte strings that are tokens of the source alone.
        only_target: The number of byte strings that are tokens of the target alone.
        paired: The number of shared byte strings whose two ids have an entry in the alignment.
        source_mass: The number of the text's source tokens.
        source_mass_shared: The number of the text's source tokens whose bytes are shared.
        target_mass: The number of the text's target tokens.
        target_mass_shared: The number of the text's target tokens whose bytes are shared.
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
        cls,
        alignment: Alignment,
        source: Vocabulary,
        target: Vocabulary,
        source_occurrences: Int64,
        target_occurrences: Int64,
    ) -> Overlap:
        """Compare two vocabularies.

        Args:
            alignment: The alignment of the two.
            source: S.
            target: T.
            source_occurrences: (|S|,), how often each source token occurs in the text.
            target_occurrences: (|T|,), how often each target token occurs in the text.
        """
        y, w = exact_partners(source, target)
        return cls(
            shared=len(y),
            only_source=len(source.canonical) - len(y),
            only_target=len(target.canonical) - len(y),
            paired=int((alignment.counts[y, w] > 0).sum()),
            source_mass=int(source_occurrences.sum()),
            source_mass_shared=int(source_occurrences[w].sum()),
            target_mass=int(target_occurrences.sum()),
            target_mass_shared=int(target_occurrences[y].sum()),
        )
