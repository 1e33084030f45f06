"""Provenance and size of an alignment, as `align`, `inspect` and other commands print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vocabridge.cli._output import count, plain, size

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment, CorpusCard, PartialCounts, VocabularyCard


def as_document(alignment: Alignment) -> dict[str, Any]:
    """Return provenance, counts and coverage of an alignment for JSON."""
    summary = alignment.summary()
    return {
        "method": alignment.method,
        "parameters": plain(alignment.parameters),
        "source": plain(alignment.source),
        "target": plain(alignment.target),
        "corpus": plain(alignment.corpus),
        "version": alignment.version,
        "summary": plain(summary)
        | {
            "target_coverage": summary.target_coverage,
            "source_coverage": summary.source_coverage,
            "mean_row": summary.mean_row,
        },
    }


def shard_document(partial: PartialCounts) -> dict[str, Any]:
    """Return provenance and counts of a shard for JSON."""
    return {
        "shard": plain(partial.shard),
        "method": partial.method,
        "parameters": plain(partial.parameters),
        "source": plain(partial.source),
        "target": plain(partial.target),
        "corpus": plain(partial.corpus),
        "pairs": len(partial.counts.keys),
        "occurrences": int(partial.counts.counts.sum()),
    }


def shard_facts(partial: PartialCounts) -> dict[str, object]:
    """Return provenance and counts of a shard for a table."""
    return {
        "shard": str(partial.shard),
        "method": _method(partial.method, partial.parameters),
        "source": _card(partial.source),
        "target": _card(partial.target),
        "corpus": _corpus(partial.corpus),
        "pairs": count(len(partial.counts.keys)),
        "occurrences": count(int(partial.counts.counts.sum())),
    }


def as_facts(alignment: Alignment) -> dict[str, object]:
    """Return provenance, counts and coverage of an alignment for a table."""
    summary = alignment.summary()
    return {
        "method": _method(alignment.method, alignment.parameters),
        "source": _card(alignment.source),
        "source's changes to text": _changes(alignment.source),
        "target": _card(alignment.target),
        "target's changes to text": _changes(alignment.target),
        "corpus": "none" if alignment.corpus is None else _corpus(alignment.corpus),
        "pairs": count(summary.pairs),
        "target tokens covered": _covered(summary.target_covered, summary.target_coverage),
        "source tokens covered": _covered(summary.source_covered, summary.source_coverage),
        "pairs per target token": f"{summary.mean_row:.1f} on average, {count(summary.largest_row)} at most",
        "target tokens with one pair": count(summary.single),
    }


def _method(name: str, parameters: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {value}" for name, value in parameters.items())
    return name + (f" ({values})" if values else "")


def _corpus(card: CorpusCard) -> str:
    return f"{card.files} files, {size(card.bytes)}, sha256 {card.digest[:12]}"


def _card(card: VocabularyCard) -> str:
    sizes = f"{count(card.size)} ids, {count(card.usable)} usable"
    return f"{card.name}: {sizes}, fingerprint {card.fingerprint[:12]}"


def _changes(card: VocabularyCard) -> str:
    """Describe what a tokenizer changes in a text before it tokenizes the text."""
    return "; ".join(card.changes) or "none"


def _covered(tokens: int, coverage: float) -> str:
    return f"{count(tokens)} ({coverage:.2%} of the usable tokens)"
