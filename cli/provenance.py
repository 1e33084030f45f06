"""What an alignment says of itself, as `align` and `inspect` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vocabridge.cli.output import count, plain, size

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment, VocabularyCard


def as_document(alignment: Alignment) -> dict[str, Any]:
    """Provenance, counts and coverage, for JSON."""
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


def as_facts(alignment: Alignment) -> dict[str, object]:
    """The same, for people."""
    summary = alignment.summary()
    corpus = alignment.corpus
    parameters = ", ".join(f"{name} {value}" for name, value in alignment.parameters.items())
    text = "no text"
    if corpus is not None:
        text = f"{corpus.files} files, {size(corpus.bytes)}, sha256 {corpus.digest[:12]}"
    return {
        "method": alignment.method + (f" ({parameters})" if parameters else ""),
        "source": _card(alignment.source),
        "target": _card(alignment.target),
        "counted on": text,
        "pairs": count(summary.pairs),
        "target tokens spoken for": _covered(summary.target_covered, summary.target_coverage),
        "source tokens that speak": _covered(summary.source_covered, summary.source_coverage),
        "pairs a target token": f"{summary.mean_row:.1f} on average, {count(summary.largest_row)} at most",
        "target tokens with one pair": count(summary.single),
    }


def _card(card: VocabularyCard) -> str:
    sizes = f"{count(card.size)} ids, {count(card.usable)} usable"
    return f"{card.name}: {sizes}, fingerprint {card.fingerprint[:12]}"


def _covered(tokens: int, coverage: float) -> str:
    return f"{count(tokens)} ({coverage:.2%} of the usable)"
