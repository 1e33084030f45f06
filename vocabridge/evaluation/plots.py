"""Plots of an evaluation. Each axis says which direction is better; the bridge is blue, all other contenders gray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from vocabridge.evaluation.contenders import label_of
from vocabridge.evaluation.intervals import Interval
from vocabridge.options import Contender
from vocabridge.utils.html import BLUE, GREY, RED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 5.5  # inches: legible on a phone, too
_MARKERS = "osD^v<>ph*"  # one for each contender, and one more
# Okabe and Ito's, but for their blue, which is the bridge's.
_LINES = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_LOGARITHMIC_FROM = 20
"""Time is on a logarithmic axis where the slowest contender takes this many times as long as the fastest."""


def plot_intervals(rows: Sequence[tuple[str, Interval]], label: str, marks: Sequence[float] = ()) -> Figure:
    """Plot the value of each contender with its interval.

    Args:
        rows: Contender and interval, the first at the top.
        label: Label of the axis.
        marks: Values at which to draw a dotted line.
    """
    figure = new_figure(_WIDTH, 0.32 * len(rows) + 1)
    axes = figure.subplots()
    for place, (name, interval) in enumerate(rows):
        spread = [[interval.value - interval.low], [interval.high - interval.value]]
        axes.errorbar(interval.value, place, xerr=spread, fmt="o", capsize=4, color=_color(name))
    for mark in marks:
        axes.axvline(mark, color=GREY, linestyle=":")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _finish(axes, label, grid="x")
    return figure


def plot_quality_and_cost(points: Sequence[tuple[str, float, float]]) -> Figure:
    """Plot quality against cost.

    Args:
        points: Contender, bits per byte and milliseconds a token.
    """
    figure = new_figure(_WIDTH, 3.8)
    axes = figure.subplots()
    by_time = sorted(points, key=lambda point: point[2])
    for marker, (name, bits, time) in zip(_MARKERS, by_time, strict=False):
        axes.plot(time, bits, marker, color=_color(name), label=name, markersize=8)
    axes.margins(0.2)
    if by_time and by_time[-1][2] > _LOGARITHMIC_FROM * by_time[0][2]:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    elif by_time:
        axes.set_xlim(left=0)
    axes.set_ylabel("bits per byte\n(lower is better)")
    _finish(axes, "milliseconds a token (further left is faster)", grid="both")
    if by_time:
        # Names beside the points would overlap.
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_gains(gains: Sequence[tuple[str, float]], label: str) -> Figure:
    """Plot bars, blue to the right of 0 and red to its left; the first at the top."""
    figure = new_figure(_WIDTH, 0.32 * len(gains) + 1)
    axes = figure.subplots()
    colors = [BLUE if gain > 0 else RED for _, gain in gains]
    axes.barh([name for name, _ in gains], [gain for _, gain in gains], color=colors, height=0.7)
    axes.axvline(0, color=GREY)
    axes.invert_yaxis()
    _finish(axes, label, grid="x")
    return figure


def plot_strengths(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Plot bits a token by strength.

    Args:
        lines: Contender, and its pairs of alpha and bits a token.
    """
    figure = new_figure(_WIDTH, 3.8)
    axes = figure.subplots()
    for number, (name, pairs) in enumerate(lines):
        color = BLUE if name == label_of(Contender.BRIDGE) else _LINES[number % len(_LINES)]
        axes.plot(
            [alpha for alpha, _ in pairs],
            [bits for _, bits in pairs],
            marker=_MARKERS[number % len(_MARKERS)],
            label=name,
            color=color,
        )
    axes.set_ylabel("bits a token\n(lower is better)")
    _finish(axes, "alpha (0 is the base)", grid="both")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _color(name: str) -> str:
    return BLUE if name == label_of(Contender.BRIDGE) else GREY


def _finish(axes: Axes, label: str, grid: Literal["both", "x"]) -> None:
    axes.set_xlabel(label)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
