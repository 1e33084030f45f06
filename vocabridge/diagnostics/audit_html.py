"""An audit as a self-contained HTML page with tables and plots."""

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
        audit: The audit.
        path: The HTML file.

    Raises:
        VocabridgeError: matplotlib is missing, or the file cannot be written.
    """
    tables = Tables.of(audit)
    names = f"{audit.source.name} → {audit.target.name}"
    body = f"""<h1>Audit of an alignment</h1>
<p>{html.escape(names)}</p>
{_verdict(audit.weak)}
<p>More tokens with an entry, more common starts, more mass that arrives, and fewer bits lost are better. In the figure
of the mass, the parts of a bar go from the best on the left to the worst on the right. The gray part is neither: the
source predicts nothing there.</p>
{_section(tables.facts)}
<h2>Overlap</h2>
<figure>{_plot_overlap(audit)}</figure>
{_section(tables.targets)}
{_section(tables.sources)}
{_section(tables.target_mass)}
<figure>{_plot_fates(audit.targets)}</figure>
{_section(tables.source_mass)}
{_section(tables.worst)}
{_section(tables.digits)}
{_section(tables.flows)}
{_section(tables.fertility)}
<figure>{_plot_fertility(audit.fertility)}</figure>
<h2>Entries</h2>
<p>With how many source tokens each target token is aligned (the entries of its row), and with how many target tokens
each source token (the entries of its column).</p>
<figure>{_plot_entries(audit.rows, audit.columns)}</figure>"""
    write_atomically(path, page(f"audit of {names}", body, _STYLE).encode())


def _section(section: Table) -> str:
    if not section.rows:
        return ""
    note = f"<p>{html.escape(section.note)}</p>" if section.note else ""
    cells = table(section.header, section.rows, "" if any(section.header) else "facts")
    return f"<h2>{html.escape(section.title)}</h2>{note}{cells}"


def _verdict(weak: Sequence[str]) -> str:
    if not weak:
        return f'<p class="well">No class of tokens falls under {WEAK:.0%}.</p>'
    return '<div class="weak">' + "".join(f"{html.escape(sentence)}<br>" for sentence in weak) + "</div>"


def _plot_overlap(audit: Audit) -> str:
    """Plot the shares of byte strings and of tokens of the text in both vocabularies or in one alone, as SVG."""
    overlap = audit.overlap
    bars = (
        ("byte strings of\neither vocabulary", (overlap.only_source, overlap.shared, overlap.only_target)),
        (
            "source tokens\nof the text",
            (overlap.source_mass - overlap.source_mass_shared, overlap.source_mass_shared, 0),
        ),
        (
            "target tokens\nof the text",
            (0, overlap.target_mass_shared, overlap.target_mass - overlap.target_mass_shared),
        ),
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
    """Plot where the mass of each class's tokens in the text goes, as SVG."""
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
    """Add the axis and the legend to horizontal bars of percentages."""
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False)


def _plot_fertility(fertilities: Sequence[Fertility]) -> str:
    """Plot tokens per unit and bytes per token of both tokenizers for each class of text, as SVG."""
    shown = [fertility for fertility in fertilities if fertility.units]
    figure = new_figure(_WIDTH, 3.6)
    panels: tuple[tuple[str, Callable[[Fertility], tuple[float, float]]], ...] = (
        ("tokens per unit", lambda fertility: (fertility.source_per_unit, fertility.target_per_unit)),
        ("bytes per token", lambda fertility: (fertility.source_bytes, fertility.target_bytes)),
    )
    for axes, (label, values) in zip(figure.subplots(1, 2), panels, strict=True):
        for k, (name, color) in enumerate((("source", _SOURCE), ("target", _TARGET))):
            heights = [values(fertility)[k] for fertility in shown]
            places = [place + 0.4 * k for place in range(len(shown))]
            axes.bar(places, heights, 0.38, color=color, label=name if label.startswith("tokens") else None)
        axes.set_xticks(
            [place + 0.2 for place in range(len(shown))],
            [class_label(fertility.text_class) for fertility in shown],
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
    """Plot how many rows and columns have how many entries, on a logarithmic axis, as SVG."""
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
