"""The audit: all that is known of one alignment and one text, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vocabridge.alignment.alignment import Alignment, VocabularyCard
from vocabridge.alignment.audit.coverage import Balance, Coverage, Entries, sides
from vocabridge.alignment.audit.digits import DigitFlow, DigitHabits, digit_flows
from vocabridge.alignment.audit.figures import document, total
from vocabridge.alignment.audit.overlap import Overlap
from vocabridge.alignment.audit.projected_mass import ProjectedMass
from vocabridge.alignment.audit.reading import Fertility, read
from vocabridge.alignment.audit.weak import weak
from vocabridge.alignment.audit.worst import Loss, worst
from vocabridge.alignment.builders.base import Progress
from vocabridge.alignment.corpus import Corpus, CorpusCard
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Audit:
    """All that is known of an alignment and a text.

    Attributes:
        method: How the alignment was built.
        source: The value network's vocabulary.
        target: The base model's vocabulary.
        text: The text that was encoded.
        targets: What is covered of the target's tokens, a class each.
        sources: What is covered of the source's tokens, a class each.
        balances: Whether each class of the target's tokens gets the mass that it should get.
        rows: Entries per target token: how many source tokens speak for it.
        columns: Entries per source token: how many target tokens it becomes.
        overlap: The tokens of the very same bytes.
        fertility: How finely both cut the text, a class of text each.
        worst: The target tokens that lose most bits on the text, the worst first.
        source_digits: What the source tokenizer does with digits.
        target_digits: What the target tokenizer does with digits.
        digit_flows: What the source's digits "0".."9" become, those that it has.
        source_unspelled: Bytes of the text that no source token spells where it stands: changed by the tokenizer,
            dropped, or read as a control token.
        target_unspelled: The same of the target.
    """

    method: str
    source: VocabularyCard
    target: VocabularyCard
    text: CorpusCard
    targets: tuple[Coverage, ...]
    sources: tuple[Coverage, ...]
    balances: tuple[Balance, ...]
    rows: Entries
    columns: Entries
    overlap: Overlap
    fertility: tuple[Fertility, ...]
    worst: tuple[Loss, ...]
    source_digits: DigitHabits
    target_digits: DigitHabits
    digit_flows: tuple[DigitFlow, ...]
    source_unspelled: int
    target_unspelled: int

    @classmethod
    def of(
        cls,
        alignment: Alignment,
        source: Vocabulary,
        target: Vocabulary,
        corpus: Corpus,
        progress: Progress | None = None,
    ) -> Audit:
        """Audit an alignment on a text.

        Args:
            alignment: The alignment.
            source: The vocabulary it was made for, S.
            target: The vocabulary it was made for, T.
            corpus: The text; best one that the alignment was not counted on.
            progress: Told how far it is, in bytes of text.

        Raises:
            VocabridgeError: The alignment was made for other vocabularies; the text cannot be read.
        """
        alignment = alignment.fitted(source, target)
        w, y, pairs, fertility = read(source, target, corpus, progress or (lambda done, total: None))
        projected = ProjectedMass.of(alignment, *sides(alignment, source, target), pairs)
        return cls(
            method=alignment.method,
            source=alignment.source,
            target=alignment.target,
            text=corpus.card,
            targets=projected.coverage(projected.target, projected.y, y.tokens),
            sources=projected.coverage(projected.source, projected.w, w.tokens),
            balances=projected.balances(),
            rows=projected.target.entries(),
            columns=projected.source.entries(),
            overlap=Overlap.of(alignment, source, target, w.tokens, y.tokens),
            fertility=fertility,
            worst=worst(projected),
            source_digits=DigitHabits.of(source),
            target_digits=DigitHabits.of(target),
            digit_flows=tuple(digit_flows(projected)),
            source_unspelled=w.unspelled,
            target_unspelled=y.unspelled,
        )

    @property
    def all_targets(self) -> Coverage:
        """What is covered of the target's tokens, of every class."""
        return total(self.targets)

    @property
    def all_sources(self) -> Coverage:
        """What is covered of the source's tokens, of every class."""
        return total(self.sources)

    @property
    def all_text(self) -> Fertility:
        """How finely both cut the text, of every class."""
        return total(self.fertility)

    @property
    def weak(self) -> tuple[str, ...]:
        """A sentence for each class, and each reason, that is weak: see `weak_classes`, and by this text's mass."""
        return tuple(weak(self.targets, self.sources, self.balances))

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form: fields and ratios, classes by their labels."""
        found: dict[str, Any] = document(self)
        return found
