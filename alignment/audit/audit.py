"""The complete audit of one alignment on one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vocabridge.alignment.alignment import Alignment, VocabularyCard
from vocabridge.alignment.audit.coverage import Balance, Coverage, Entries, sides
from vocabridge.alignment.audit.digits import DigitFlow, DigitHabits, digit_flows
from vocabridge.alignment.audit.fertility import Fertility, encode_corpus
from vocabridge.alignment.audit.figures import as_json, total
from vocabridge.alignment.audit.overlap import Overlap
from vocabridge.alignment.audit.projected_mass import ProjectedMass
from vocabridge.alignment.audit.weak import weak
from vocabridge.alignment.audit.worst import Loss, worst
from vocabridge.alignment.builders.base import Progress, no_progress
from vocabridge.alignment.corpus import Corpus, CorpusCard
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Audit:
    """The audit of an alignment on a text.

    Attributes:
        method: The method of the alignment.
        source: The value source's vocabulary.
        target: The base model's vocabulary.
        text: The text that was encoded.
        targets: The coverage of the target's tokens, one for each class.
        sources: The coverage of the source's tokens, one for each class.
        balances: The mass that each class of target tokens gets, beside the mass that it should get.
        rows: The numbers of entries per target token, that is, of source tokens aligned with it.
        columns: The numbers of entries per source token, that is, of target tokens aligned with it.
        overlap: The tokens with the same bytes.
        fertility: How finely both tokenizers cut the text, one for each class of text.
        worst: The target tokens that lose most bits on the text, the worst first.
        source_digits: How the source tokenizer cuts numbers.
        target_digits: How the target tokenizer cuts numbers.
        digit_flows: The target tokens aligned with those of the digits "0".."9" that are source tokens.
        source_unspelled: The bytes of the text that no source token spells at its place, because the tokenizer changes
            or drops them or encodes them as a control token.
        target_unspelled: The same for the target.
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
        progress: Progress = no_progress,
    ) -> Audit:
        """Audit an alignment on a text.

        Args:
            alignment: The alignment.
            source: The source vocabulary S of the alignment.
            target: The target vocabulary T of the alignment.
            corpus: The text, preferably one that the alignment was not counted on.
            progress: Called with the bytes of text done and the total.

        Raises:
            VocabridgeError: The alignment was made for other vocabularies, or the text cannot be read.
        """
        alignment = alignment.fitted(source, target)
        source_tokens, target_tokens, pairs, fertility = encode_corpus(source, target, corpus, progress)
        projected = ProjectedMass.of(alignment, *sides(alignment, source, target), pairs)
        return cls(
            method=alignment.method,
            source=alignment.source,
            target=alignment.target,
            text=corpus.card,
            targets=projected.coverage(projected.target, projected.y, target_tokens.occurrences),
            sources=projected.coverage(projected.source, projected.w, source_tokens.occurrences),
            balances=projected.balances(),
            rows=projected.target.entries(),
            columns=projected.source.entries(),
            overlap=Overlap.of(alignment, source, target, source_tokens.occurrences, target_tokens.occurrences),
            fertility=fertility,
            worst=worst(projected),
            source_digits=DigitHabits.of(source),
            target_digits=DigitHabits.of(target),
            digit_flows=tuple(digit_flows(projected)),
            source_unspelled=source_tokens.unspelled,
            target_unspelled=target_tokens.unspelled,
        )

    @property
    def all_targets(self) -> Coverage:
        """The coverage of the target's tokens of all classes together."""
        return total(self.targets)

    @property
    def all_sources(self) -> Coverage:
        """The coverage of the source's tokens of all classes together."""
        return total(self.sources)

    @property
    def all_text(self) -> Fertility:
        """How finely both tokenizers cut the text of all classes together."""
        return total(self.fertility)

    @property
    def weak(self) -> tuple[str, ...]:
        """A sentence for each weak class and reason; see `weak_classes`. The mass on this text is a reason, too."""
        return tuple(weak(self.targets, self.sources, self.balances))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of the audit, with all fields and ratios; classes are given by their labels."""
        json_form: dict[str, Any] = as_json(self)
        return json_form
