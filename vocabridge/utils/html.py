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

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #d5d9de; }
th { text-align: left; } td + td, th + th { text-align: right; } figure { margin: 1rem 0; overflow-x: auto; }
h3 { margin: .5rem 0 .2rem; font-size: 1rem; } small { color: #59636e; }
"""


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


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of plain texts, which are escaped; columns after the first are right-aligned."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


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


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element, without matplotlib's metadata.

    The same figure always gives the same SVG. Its ids differ from those of other figures, so a page can hold several.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "vocabridge"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    prefix = f"f{hashlib.sha256(element.encode()).hexdigest()[:8]}-"
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", element)
