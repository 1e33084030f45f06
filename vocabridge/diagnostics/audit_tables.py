"""The tables of an audit, for the command line and the HTML page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vocabridge.alignment import Audit
from vocabridge.alignment.audit.coverage import Balance, Coverage, Entries
from vocabridge.alignment.audit.digits import DigitFlow
from vocabridge.alignment.audit.fertility import Fertility
from vocabridge.alignment.audit.tokens import Share
from vocabridge.alignment.audit.worst import Loss
from vocabridge.alignment.tokenizers.classes import TokenClass


@dataclass(frozen=True)
class Table:
    """A table of formatted figures.

    Attributes:
        title: What it shows.
        note: What its figures mean.
        header: The names of its columns; empty names for a list of facts.
        rows: Its rows, each with a cell for every column.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Tables:
    """All tables of an audit."""

    facts: Table
    targets: Table
    sources: Table
    target_mass: Table
    source_mass: Table
    worst: Table
    digits: Table
    flows: Table
    fertility: Table

    @classmethod
    def of(cls, audit: Audit) -> Tables:
        """Format an audit."""
        targets, sources = (*audit.targets, audit.all_targets), (*audit.sources, audit.all_sources)
        return cls(
            facts=Table("The alignment", "", ("", ""), tuple(_facts(audit))),
            targets=_coverage("Coverage of the target's tokens", "row", targets),
            sources=_coverage("Coverage of the source's tokens", "column", sources),
            target_mass=_mass("Where the mass goes, by the target token", targets, audit.balances),
            source_mass=_mass("Where the mass goes, by the source token", sources),
            worst=_worst(audit.worst, audit.all_targets.bits),
            digits=_digits(audit),
            flows=_flows(audit.digit_flows),
            fertility=_fertility((*audit.fertility, audit.all_text)),
        )

    def all(self) -> tuple[Table, ...]:
        """Return the tables that have rows, in reading order."""
        tables: list[Table] = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return tuple(table for table in tables if table.rows)


def _facts(audit: Audit) -> Iterable[tuple[str, str]]:
    overlap = audit.overlap
    yield "method", audit.method
    for side, card, unspelled in (
        ("source", audit.source, audit.source_unspelled),
        ("target", audit.target, audit.target_unspelled),
    ):
        yield side, f"{card.name}: {card.size:,} ids, {card.usable:,} usable, fingerprint {card.fingerprint[:12]}"
        lost = f"{unspelled / audit.text.bytes:.2%} of the bytes are spelled by no token"
        yield "  changes in the text", f"{', '.join(card.changes) or 'nothing'}; {lost}"
    yield "text", f"{audit.text.files} files, {audit.text.bytes:,} bytes, sha256 {audit.text.digest[:12]}"
    yield "pairs of equal bytes", f"{overlap.paired:,} found of {overlap.shared:,}"
    yield (
        "  of the vocabularies",
        f"{_percent(overlap.of_source)} of the source's, {_percent(overlap.of_target)} of the target's",
    )
    yield (
        "  of the text's tokens",
        f"{_percent(overlap.of_source_mass)} of the source's, {_percent(overlap.of_target_mass)} of the target's",
    )
    yield "source tokens per target token", _spread(audit.rows)
    yield "target tokens per source token", _spread(audit.columns)


def _spread(entries: Entries) -> str:
    one, few, many, none = entries.one, entries.few, entries.many, entries.none
    return f"one for {one:,}, two to five for {few:,}, more for {many:,}, none for {none:,}"


def _coverage(title: str, entry: str, coverages: Sequence[Coverage]) -> Table:
    rows = tuple(
        (
            class_label(c.token_class),
            f"{c.ids:,}",
            _percent(c.by_vocabulary),
            f"{c.occurrences:,}",
            _percent(c.by_mass),
            _percent(c.at_boundaries),
        )
        for c in coverages
        if c.ids
    )
    note = (
        f"The ids of each class and the share of them that have a {entry}. The tokens of the text, the share of them "
        "that have one, and the share that start where a token of the other vocabulary starts."
    )
    return Table(title, note, ("class", "ids", f"have a {entry}", "tokens", f"have a {entry}", "common start"), rows)


def _mass(title: str, coverages: Sequence[Coverage], balances: Sequence[Balance] = ()) -> Table:
    """Make the table of where the mass goes; with balances, also of the mass that each class gets in all."""
    all_bits = coverages[-1].bits or math.nan
    rows = []
    for c in coverages:
        if not c.common:
            continue
        gets = [_percent(balances[c.token_class].share) if c.token_class is not None else ""] if balances else []
        rows.append(
            (
                class_label(c.token_class),
                f"{c.common:,}",
                _percent(c.arriving),
                _percent(c.kept),
                *gets,
                _number(c.bits_each),
                _number(c.least_bits_each),
                _percent(c.bits / all_bits),
            )
        )
    note = (
        "At common starts: the mean mass on the target token of the text, and on all tokens of its class"
        + (". The mass that the class gets in all, as a share of what it should get" if balances else "")
        + ". The bits lost a token, the least that any static projection would lose on this text, and the share of the "
        "class in all bits lost."
    )
    balanced = ("class gets",) if balances else ()
    header = ("class", "tokens", "arrives", "in class", *balanced, "bits lost", "at least", "of all")
    return Table(title, note, header, tuple(rows))


def _fertility(fertilities: Sequence[Fertility]) -> Table:
    rows = (
        (
            class_label(fertility.text_class),
            f"{fertility.units:,}",
            f"{fertility.bytes:,}",
            _number(fertility.source_per_unit),
            _number(fertility.target_per_unit),
            _number(fertility.source_bytes),
            _number(fertility.target_bytes),
        )
        for fertility in fertilities
        if fertility.units
    )
    return Table(
        "Fertility",
        "A unit is a word, a number or a run of other characters, with one space before it, or white space between.",
        (
            "class of text",
            "units",
            "bytes",
            "source tokens a unit",
            "target tokens a unit",
            "bytes a source token",
            "bytes a target token",
        ),
        tuple(rows),
    )


def _worst(losses: Sequence[Loss], all_bits: float) -> Table:
    rows = (
        (
            f"{loss.target.text} ({loss.target.id})",
            f"{loss.source.text} ({loss.source.id})",
            f"{loss.occurrences:,}",
            _percent(loss.arriving),
            _number(loss.bits_each),
            _percent(loss.bits / all_bits),
            _shares(loss.instead),
        )
        for loss in losses
    )
    return Table(
        "Target tokens that lose most",
        "Each with its id and the source token that most often starts where it starts; ␣ is a space. Under instead: "
        "the tokens that get most of its mass.",
        ("target token", "source token", "times", "arrives", "bits lost", "of all", "instead"),
        tuple(rows),
    )


def _digits(audit: Audit) -> Table:
    source, target = audit.source_digits, audit.target_digits
    facts = (
        ("a run of digits", source.grouping.value, target.grouping.value),
        ("space and digit", *("one token" if digits.space_joined else "two tokens" for digits in (source, target))),
        ("one token, of 0 to 9", f"{source.ones} of 10", f"{target.ones} of 10"),
        ("one token, of 10 to 99", f"{source.tens} of 90", f"{target.tens} of 90"),
        ("one token, of 100 to 999", f"{source.hundreds} of 900", f"{target.hundreds} of 900"),
    )
    cuts = (
        (f'"{sample}"', *("  ".join(digits.cuts[sample]) or "-" for digits in (source, target)))
        for sample in source.cuts
    )
    return Table("Digits", "How both tokenizers cut digits into tokens.", ("", "source", "target"), (*facts, *cuts))


def _flows(flows: Sequence[DigitFlow]) -> Table:
    rows = (
        (
            f"{flow.source.text} ({flow.source.id})",
            _percent(flow.to_itself),
            _percent(flow.to_numbers),
            _shares(flow.to),
        )
        for flow in flows
    )
    return Table(
        "What the source's digits become",
        "The mass on target tokens with the same byte, the mass on numbers, and the target tokens that get most.",
        ("digit", "the same", "numbers", "largest"),
        tuple(rows),
    )


def _shares(shares: Iterable[Share]) -> str:
    return "   ".join(f"{share.token.text} {share.mass:.1%}" for share in shares) or "-"


def class_label(token_class: TokenClass | None) -> str:
    """Return the name of a class of tokens; None stands for all."""
    return "all" if token_class is None else token_class.label


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
