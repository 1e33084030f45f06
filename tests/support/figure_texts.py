"""What a reader of a matplotlib figure cannot see."""

from __future__ import annotations

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_cut_off(figure: Figure) -> list[str]:
    """Return the texts of a figure that reach over its edge."""
    FigureCanvasSVG(figure)
    figure.draw_without_rendering()
    ticks = [
        (tick, *sorted(axis.get_view_interval()))
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
    ]
    not_drawn = {
        label for tick, low, high in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)
    }
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in not_drawn]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    whole = figure.bbox
    return [
        text
        for text, box in boxes
        if box.x0 < whole.x0 - 1 or box.y0 < whole.y0 - 1 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1
    ]
