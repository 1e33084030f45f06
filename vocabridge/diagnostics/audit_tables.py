"""The tables of an audit, as the command line prints them and the page shows them."""

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
    """A part of the audit as texts.

    Attributes:
        title: What it shows.
        note: What its figures mean.
        header: The names of its columns; empty names for a list of facts.
        rows: Its cells.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Tables:
    """The audit as tables; each says what it shows."""

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
        """Write an audit as texts."""
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
        """All of them, those with rows, in the order of reading."""
        tables: list[Table] = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return tuple(one for one in tables if one.rows)


def _facts(audit: Audit) -> Iterable[tuple[str, str]]:
    o = audit.overlap
    yield "method", audit.method
    for side, card, unspelled in (
        ("source", audit.source, audit.source_unspelled),
        ("target", audit.target, audit.target_unspelled),
    ):
        yield side, f"{card.name}: {card.size:,} ids, {card.usable:,} usable, fingerprint {card.fingerprint[:12]}"
        lost = f"{unspelled / audit.text.bytes:.2%} of the bytes are spelled by no token"
        yield "  changes in the text", f"{', '.join(card.changes) or 'nothing'}; {lost}"
    yield "text", f"{audit.text.files} files, {audit.text.bytes:,} bytes, sha256 {audit.text.digest[:12]}"
    yield "pairs of equal bytes", f"{o.paired:,} found of {o.shared:,}"
    yield "  of the vocabularies", f"{_percent(o.of_source)} of the source's, {_percent(o.of_target)} of the target's"
    yield (
        "  of the text's tokens",
        f"{_percent(o.of_source_mass)} of the source's, {_percent(o.of_target_mass)} of the target's",
    )
    yield "source tokens per target token", _spread(audit.rows)
    yield "target tokens per source token", _spread(audit.columns)


def _spread(entries: Entries) -> str:
    e = entries
    return f"one for {e.one:,}, two to five for {e.few:,}, more for {e.many:,}, none for {e.none:,}"


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
        f"The ids of each class, and the share of them that have a {entry}; the tokens of the text, the share of them "
        "that have one, and the share that starts where a token of the other side starts."
    )
    return Table(title, note, ("class", "ids", f"have a {entry}", "tokens", f"have a {entry}", "common start"), rows)


def _mass(title: str, coverages: Sequence[Coverage], balances: Sequence[Balance] = ()) -> Table:
    """Write where the mass goes; with balances, also what each class gets in all."""
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
        "Where both have a token that starts: the mean mass on the very target token that stands there, and on it and "
        "others of its class"
        + ("; all mass that the class gets, of what it should get" if balances else "")
        + "; bits lost a token, the least that any static method would lose on this text, and the class's part of all."
    )
    balanced = ("class gets",) if balances else ()
    header = ("class", "tokens", "arrives", "in class", *balanced, "bits lost", "at least", "of all")
    return Table(title, note, header, tuple(rows))


def _fertility(parts: Sequence[Fertility]) -> Table:
    rows = (
        (
            class_label(part.text_class),
            f"{part.units:,}",
            f"{part.bytes:,}",
            _number(part.source_per_unit),
            _number(part.target_per_unit),
            _number(part.source_bytes),
            _number(part.target_bytes),
        )
        for part in parts
        if part.units
    )
    return Table(
        "Fertility",
        "A unit is a word, a number or a run of other marks, with one space before it; or the white space between.",
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
        "Each with its id and with the source token that stands most often where it starts; ␣ is a space. What got "
        "the mass instead: the largest.",
        ("target token", "source token", "times", "arrives", "bits lost", "of all", "instead"),
        tuple(rows),
    )


def _digits(audit: Audit) -> Table:
    source, target = audit.source_digits, audit.target_digits
    facts = (
        ("a run of digits", source.grouping.value, target.grouping.value),
        ("space and digit", *("one token" if one.space_joined else "two tokens" for one in (source, target))),
        ("one token, of 0 to 9", f"{source.ones} of 10", f"{target.ones} of 10"),
        ("one token, of 10 to 99", f"{source.tens} of 90", f"{target.tens} of 90"),
        ("one token, of 100 to 999", f"{source.hundreds} of 900", f"{target.hundreds} of 900"),
    )
    cuts = (
        (f'"{sample}"', *("  ".join(one.cuts[sample]) or "-" for one in (source, target))) for sample in source.cuts
    )
    return Table("Digits", "How both tokenizers cut them.", ("", "source", "target"), (*facts, *cuts))


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
        "The mass on target tokens of the same byte, the mass on numbers, and the target tokens that get most.",
        ("digit", "the same", "numbers", "largest"),
        tuple(rows),
    )


def _shares(shares: Iterable[Share]) -> str:
    return "   ".join(f"{share.token.text} {share.mass:.1%}" for share in shares) or "-"


def class_label(one: TokenClass | None) -> str:
    """Name a class of tokens; None stands for all."""
    return "all" if one is None else one.label


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
