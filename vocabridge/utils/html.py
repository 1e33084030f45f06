"""What the HTML pages share: one self-contained file, its style, tables, and figures as SVG inside it.

A page loads nothing: no script, no font, no picture from anywhere. Whatever comes from data is escaped here.
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

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #d5d9de; }
th { text-align: left; } td + td, th + th { text-align: right; } figure { margin: 1rem 0; overflow-x: auto; }
h3 { margin: .5rem 0 .2rem; font-size: 1rem; } small { color: #59636e; }
"""


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: The window's title, as text.
        body: HTML.
        style: CSS of this page alone.
    """
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>vocabridge: {html.escape(title)}</title>
<style>{_STYLE}{style}</style>
{body}
</html>
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts; columns after the first are right-aligned."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, inches wide and high, that belongs to no window.

    Raises:
        VocabridgeError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VocabridgeError("the HTML report needs matplotlib; run: pip install 'vocabridge[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element, without matplotlib's remarks on itself and on the time.

    It is the same whenever it is drawn, and its ids are no other figure's, so that a page can hold several.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "vocabridge"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    drawn = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    own = f"f{hashlib.sha256(drawn.encode()).hexdigest()[:8]}-"
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}", drawn)
