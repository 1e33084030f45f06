"""An audit for people: one self-contained HTML page with its tables and plots."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vocabridge.alignment import Audit, write_atomically
from vocabridge.alignment.audit.coverage import Coverage, Entries
from vocabridge.alignment.audit.fertility import Fertility
from vocabridge.alignment.audit.weak import WEAK
from vocabridge.alignment.tokenizers.classes import TokenClass
from vocabridge.diagnostics.audit_tables import Table, Tables, class_label
from vocabridge.utils.html import new_figure, page, svg, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = """
.weak, .well { border-left: .3rem solid #009e73; background: var(--box); padding: .6rem 1rem; }
.weak { border-color: #d55e00; }
table { font-size: .9rem; } td { white-space: pre; } .facts td { white-space: pre-wrap; }
"""

_WIDTH = 6.5  # inches: legible on a phone, too

# Okabe and Ito's colors, which color-blind people tell apart too.
_SOURCE, _TARGET, _SHARED = "#E69F00", "#0072B2", "#009E73"
_DARK = "#1b1f24"  # of numbers on a light bar
_FATES = (
    ("to the very token", "#009E73", lambda c: c.arrived),
    ("to another token of its class", "#56B4E9", lambda c: c.same_class),
    ("to another class", "#CC79A7", lambda c: c.other_class),
    ("nowhere: no entry", "#D55E00", lambda c: c.nowhere),
    ("no source token starts there", "#CCCCCC", lambda c: c.occurrences - c.common),
)


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
<p>More tokens with an entry, more common starts, more mass that arrives, and fewer bits lost are better. In the figure
of the mass, the parts go from the best on the left to the worst on the right, but for the gray one: the source predicts
nothing there.</p>
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
<p>How many source tokens are aligned with one target token (the entries of its row), and how many target tokens one
source token may become (the entries of its column).</p>
<figure>{_plot_entries(audit.rows, audit.columns)}</figure>"""
    write_atomically(path, page(f"audit of {names}", body, _STYLE).encode())


def _section(part: Table) -> str:
    if not part.rows:
        return ""
    note = f"<p>{html.escape(part.note)}</p>" if part.note else ""
    return (
        f"<h2>{html.escape(part.title)}</h2>{note}{table(part.header, part.rows, '' if any(part.header) else 'facts')}"
    )


def _verdict(weak: Sequence[str]) -> str:
    if not weak:
        return f'<p class="well">No class of tokens falls under {WEAK:.0%}.</p>'
    return '<div class="weak">' + "".join(f"{html.escape(one)}<br>" for one in weak) + "</div>"


def _plot_overlap(audit: Audit) -> str:
    """Byte strings and tokens of the text: in both vocabularies, in the source's alone, in the target's alone."""
    o = audit.overlap
    bars = (
        ("byte strings of\neither vocabulary", (o.only_source, o.shared, o.only_target)),
        ("source tokens\nof the text", (o.source_mass - o.source_mass_shared, o.source_mass_shared, 0)),
        ("target tokens\nof the text", (0, o.target_mass_shared, o.target_mass - o.target_mass_shared)),
    )
    figure = new_figure(_WIDTH, 3)
    axes = figure.subplots()
    labels = ("source only", "in both, the same bytes", "target only")
    left = [0.0] * len(bars)
    for k, (label, color) in enumerate(zip(labels, (_SOURCE, _SHARED, _TARGET), strict=True)):
        shares = [100 * parts[k] / max(1, sum(parts)) for _, parts in bars]
        axes.barh(range(len(bars)), shares, left=left, color=color, label=label, height=0.6)
        for place, (share, (_, parts)) in enumerate(zip(shares, bars, strict=True)):
            if share > 9:
                ink = _DARK if color == _SOURCE else "white"
                axes.text(left[place] + share / 2, place, f"{parts[k]:,}", ha="center", va="center", color=ink)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    _finish(axes, figure, "share, %")
    return svg(figure, "How much of both vocabularies, and of the tokens of the text, is in both or in one alone.")


def _plot_fates(coverages: Sequence[Coverage]) -> str:
    """Where the mass goes, a class each, of all its tokens in the text."""
    shown = [c for c in coverages if c.occurrences and c.token_class is not TokenClass.CONTROL]
    figure = new_figure(_WIDTH, 0.5 * len(shown) + 1.4)
    axes = figure.subplots()
    left = [0.0] * len(shown)
    for label, color, part in _FATES:
        shares = [100 * part(c) / c.occurrences for c in shown]
        axes.barh(range(len(shown)), shares, left=left, color=color, label=label, height=0.7)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(shown)), [f"{class_label(c.token_class)} ({c.occurrences:,})" for c in shown])
    _finish(axes, figure, "share of the class's tokens in the text, %", columns=2)
    return svg(figure, "Where the mass of each class of target tokens comes to rest.")


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
    figure = new_figure(_WIDTH, 3.6)
    panels: tuple[tuple[str, Callable[[Fertility], tuple[float, float]]], ...] = (
        ("tokens per unit", lambda part: (part.source_per_unit, part.target_per_unit)),
        ("bytes per token", lambda part: (part.source_bytes, part.target_bytes)),
    )
    for axes, (label, values) in zip(figure.subplots(1, 2), panels, strict=True):
        for k, (name, color) in enumerate((("source", _SOURCE), ("target", _TARGET))):
            heights = [values(part)[k] for part in shown]
            places = [place + 0.4 * k for place in range(len(shown))]
            axes.bar(places, heights, 0.38, color=color, label=name if label.startswith("tokens") else None)
        axes.set_xticks(
            [place + 0.2 for place in range(len(shown))],
            [class_label(part.text_class) for part in shown],
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return svg(figure, "Tokens per unit and bytes per token of both tokenizers, as in the table above.")


def _plot_entries(rows: Entries, columns: Entries) -> str:
    """How many rows and columns have so many entries, on a logarithmic axis."""
    length = max(len(rows.by_power), len(columns.by_power), 1)
    figure = new_figure(_WIDTH, 3.4)
    axes = figure.subplots()
    for k, (name, entries, color) in enumerate(
        (
            ("target tokens, by entries of the row", rows, _TARGET),
            ("source tokens, by entries of the column", columns, _SOURCE),
        )
    ):
        numbers = (entries.none, *entries.by_power, *(0 for _ in range(length - len(entries.by_power))))
        axes.bar([place + 0.4 * k for place in range(length + 1)], numbers, 0.38, color=color, label=name)
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
    return svg(figure, "How many target tokens and source tokens have how many entries.")


def _range(power: int) -> str:
    low, high = (1 << power >> 1) + 1, 1 << power
    return f"{high:,}" if low >= high else f"{low:,}–{high:,}"
