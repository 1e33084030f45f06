"""An audit for people: its tables, which the command line prints, and one self-contained HTML page with plots."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vocabridge.alignment import Audit, write_whole
from vocabridge.alignment.audit.coverage import Balance, Coverage, Entries
from vocabridge.alignment.audit.digits import DigitFlow
from vocabridge.alignment.audit.reading import Fertility
from vocabridge.alignment.audit.tokens import Share
from vocabridge.alignment.audit.weak import WEAK
from vocabridge.alignment.audit.worst import Loss
from vocabridge.alignment.tokenizers.classes import TokenClass
from vocabridge.utils.html import new_figure, page, svg, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = """
.weak { border-left: .3rem solid #d55e00; background: #fdf3ec; padding: .6rem 1rem; }
.well { border-left: .3rem solid #009e73; background: #eef8f4; padding: .6rem 1rem; }
table { font-size: .9rem; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
td { white-space: pre-wrap; } .facts th { display: none; } .facts td + td { text-align: left; }
figure svg { max-width: 100%; height: auto; }
"""

# Okabe and Ito's colours, which colour-blind people tell apart too.
_SOURCE, _TARGET, _SHARED = "#E69F00", "#0072B2", "#009E73"
_FATES = (
    ("to the very token", "#009E73", lambda c: c.arrived),
    ("to another token of its class", "#56B4E9", lambda c: c.same_class),
    ("to another class", "#CC79A7", lambda c: c.other_class),
    ("nowhere: no entry", "#D55E00", lambda c: c.nowhere),
    ("no source token starts there", "#CCCCCC", lambda c: c.occurrences - c.common),
)


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


def write_audit_page(audit: Audit, path: Path) -> None:
    """Write the page.

    Args:
        audit: What was found.
        path: The HTML file.

    Raises:
        VocabridgeError: matplotlib is missing, or the file cannot be written.
    """
    t = Tables.of(audit)
    names = f"{audit.source.name} → {audit.target.name}"
    body = f"""<h1>What the alignment carries</h1>
<p>{html.escape(names)}</p>
{_verdict(audit.weak)}
{_section(t.facts)}
<h2>Overlap</h2>
<figure>{_plot_overlap(audit)}</figure>
{_section(t.targets)}
{_section(t.sources)}
{_section(t.target_mass)}
<figure>{_plot_fates(audit.targets)}</figure>
{_section(t.source_mass)}
{_section(t.worst)}
{_section(t.digits)}
{_section(t.flows)}
{_section(t.fertility)}
<figure>{_plot_fertility(audit.fertility)}</figure>
<h2>Entries</h2>
<p>How many source tokens speak for one target token (the entries of its row), and how many target tokens one source
token may become (the entries of its column).</p>
<figure>{_plot_entries(audit.rows, audit.columns)}</figure>"""
    write_whole(path, page(f"audit of {names}", body, _STYLE).encode())


def _section(part: Table) -> str:
    if not part.rows:
        return ""
    note = f"<p>{html.escape(part.note)}</p>" if part.note else ""
    kind = "wide" if any(part.header) else "wide facts"
    return f'<h2>{html.escape(part.title)}</h2>{note}<div class="{kind}">{table(part.header, part.rows)}</div>'


def _verdict(weak: Sequence[str]) -> str:
    if not weak:
        return f'<p class="well">No class of tokens falls under {WEAK:.0%}.</p>'
    return '<div class="weak">' + "".join(f"{html.escape(one)}<br>" for one in weak) + "</div>"


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
            _label(c.token_class),
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
                _label(c.token_class),
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
            _label(part.text_class),
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


def _label(one: TokenClass | None) -> str:
    return "all" if one is None else one.label


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


# Plots.


def _plot_overlap(audit: Audit) -> str:
    """Byte strings and tokens of the text: in both vocabularies, in the source's alone, in the target's alone."""
    o = audit.overlap
    bars = (
        ("byte strings of\neither vocabulary", (o.only_source, o.shared, o.only_target)),
        ("source tokens\nof the text", (o.source_mass - o.source_mass_shared, o.source_mass_shared, 0)),
        ("target tokens\nof the text", (0, o.target_mass_shared, o.target_mass - o.target_mass_shared)),
    )
    figure = new_figure(9, 3)
    axes = figure.subplots()
    labels = ("source only", "in both, the same bytes", "target only")
    left = [0.0] * len(bars)
    for k, (label, colour) in enumerate(zip(labels, (_SOURCE, _SHARED, _TARGET), strict=True)):
        shares = [100 * parts[k] / max(1, sum(parts)) for _, parts in bars]
        axes.barh(range(len(bars)), shares, left=left, color=colour, label=label, height=0.6)
        for place, (share, (_, parts)) in enumerate(zip(shares, bars, strict=True)):
            if share > 9:
                ink = "black" if colour == _SOURCE else "white"
                axes.text(left[place] + share / 2, place, f"{parts[k]:,}", ha="center", va="center", color=ink)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    _finish(axes, figure, "share, %")
    return svg(figure)


def _plot_fates(coverages: Sequence[Coverage]) -> str:
    """Where the mass goes, a class each, of all its tokens in the text."""
    shown = [c for c in coverages if c.occurrences and c.token_class is not TokenClass.CONTROL]
    figure = new_figure(9, 0.5 * len(shown) + 1.4)
    axes = figure.subplots()
    left = [0.0] * len(shown)
    for label, colour, part in _FATES:
        shares = [100 * part(c) / c.occurrences for c in shown]
        axes.barh(range(len(shown)), shares, left=left, color=colour, label=label, height=0.7)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(shown)), [f"{_label(c.token_class)} ({c.occurrences:,})" for c in shown])
    _finish(axes, figure, "share of the class's tokens in the text, %", columns=3)
    return svg(figure)


def _finish(axes: Axes, figure: Figure, label: str, columns: int = 3) -> None:
    """Give horizontal bars of percentages their axis, and a legend above them."""
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False)


def _plot_fertility(parts: Sequence[Fertility]) -> str:
    """Tokens per unit and bytes per token of both tokenizers, a class of text each."""
    shown = [part for part in parts if part.units]
    figure = new_figure(9, 3.6)
    panels: tuple[tuple[str, Callable[[Fertility], tuple[float, float]]], ...] = (
        ("tokens per unit", lambda part: (part.source_per_unit, part.target_per_unit)),
        ("bytes per token", lambda part: (part.source_bytes, part.target_bytes)),
    )
    for axes, (label, values) in zip(figure.subplots(1, 2), panels, strict=True):
        for k, (name, colour) in enumerate((("source", _SOURCE), ("target", _TARGET))):
            heights = [values(part)[k] for part in shown]
            places = [place + 0.4 * k for place in range(len(shown))]
            axes.bar(places, heights, 0.38, color=colour, label=name if label.startswith("tokens") else None)
        axes.set_xticks(
            [place + 0.2 for place in range(len(shown))],
            [_label(part.text_class) for part in shown],
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return svg(figure)


def _plot_entries(rows: Entries, columns: Entries) -> str:
    """How many rows and columns have so many entries, on a logarithmic axis."""
    length = max(len(rows.by_power), len(columns.by_power), 1)
    figure = new_figure(9, 3.4)
    axes = figure.subplots()
    for k, (name, entries, colour) in enumerate(
        (
            ("target tokens, by entries of the row", rows, _TARGET),
            ("source tokens, by entries of the column", columns, _SOURCE),
        )
    ):
        numbers = (entries.none, *entries.by_power, *(0 for _ in range(length - len(entries.by_power))))
        axes.bar([place + 0.4 * k for place in range(length + 1)], numbers, 0.38, color=colour, label=name)
    ranges = [_range(power) for power in range(length)]
    axes.set_xticks(
        [place + 0.2 for place in range(length + 1)], ["0", *ranges], rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("entries")
    axes.set_ylabel("tokens")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return svg(figure)


def _range(power: int) -> str:
    low, high = (1 << power >> 1) + 1, 1 << power
    return f"{high:,}" if low >= high else f"{low:,}–{high:,}"
