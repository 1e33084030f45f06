"""The parts that all HTML pages share: frame, style, tables, and figures as inline SVG.

A page is one self-contained file that loads no script, font or picture. These functions escape text that comes from
data.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vocabridge.alignment import VocabridgeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#0b63a5", "#c0392b", "#6b7680"
"""Colors of figures. `svg` replaces these, and black, by colors that follow the reader's light or dark mode."""

_BLACK = "#000000"  # what matplotlib draws texts and axes with
_VARIABLES = {_BLACK: "var(--ink)", BLUE: "var(--blue)", RED: "var(--red)", GREY: "var(--grey)"}
_COLORS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --faint: #59636e; --line: #d5d9de; --box: #f5f6f8;
  --blue: #0b63a5; --red: #c0392b; --grey: #6b7680; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e9ec; --faint: #a3adb7; --line: #3c444c;
  --box: #22272d; --blue: #62b0ee; --red: #f2877a; --grey: #98a3ad; } }
"""
_STYLE = (
    _COLORS
    + """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }
figure, .table { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; } .table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: left; }
th { white-space: normal; vertical-align: bottom; } td + td, th + th { text-align: right; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); padding-left: 0; }
.facts td + td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
h3 { margin: .5rem 0 .2rem; font-size: 1rem; } small { color: var(--faint); }
@media (max-width: 40rem) { body { margin: 1rem auto; } h1 { font-size: 1.5rem; } table { font-size: .85rem; }
  th, td { padding: .3rem .5rem; } td:first-child { white-space: normal; min-width: 7rem; } }
"""
)


def page(title: str, body: str, style: str = "") -> str:
    """Return a complete HTML page.

    Args:
        title: Title of the window, as plain text; it is escaped.
        body: HTML; it is not escaped.
        style: CSS that only this page needs.
    """
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>vocabridge: {html.escape(title)}</title>
<style>{_STYLE}{style}</style>
{body}
</html>
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return an HTML table that scrolls sideways where the page is narrow.

    Args:
        header: Column names, as plain texts; they are escaped. Where all are empty, the table has no header.
        rows: Cells, as plain texts; they are escaped. Columns after the first are right-aligned.
        kind: A CSS class more. The class `facts` is for names with texts that wrap.
    """
    names = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    head = f"<tr>{names}</tr>" if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="{f"table {kind}".strip()}"><table>{head}{body}</table></div>'


def new_figure(width: float, height: float) -> Figure:
    """Return an empty matplotlib figure without a window; width and height are in inches.

    Raises:
        VocabridgeError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VocabridgeError("the HTML report needs matplotlib; run: pip install 'vocabridge[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, description: str) -> str:
    """Return a figure as an SVG element of a page, without matplotlib's metadata.

    The same figure always gives the same SVG. Its ids differ from those of other figures, so a page can hold several.
    The background is transparent.

    Args:
        figure: The figure.
        description: What it shows, for readers who cannot see it, as plain text; it is escaped.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "vocabridge"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    for color, variable in _VARIABLES.items():
        element = element.replace(color, variable)
    element = element.replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(description)}" style="fill: var(--ink)"', 1
    )
    prefix = f"f{hashlib.sha256(element.encode()).hexdigest()[:8]}-"
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", element)


def svg_file(figure: Figure, description: str) -> str:
    """Return a figure as an SVG file of its own, which brings its background and its colors of both modes."""
    element = svg(figure, description)
    end = element.index(">") + 1
    frame = f'<style>{_COLORS}</style>\n<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{element[:end]}\n{frame}{element[end:]}'
