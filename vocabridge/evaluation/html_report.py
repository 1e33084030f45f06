"""An evaluation as one self-contained HTML page: tables, plots, and what steering changed, token by token."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vocabridge.alignment import write_atomically
from vocabridge.evaluation.contenders import label_of
from vocabridge.evaluation.intervals import Interval
from vocabridge.evaluation.results import Evaluation, Measured, Sample
from vocabridge.options import Contender
from vocabridge.utils.html import new_figure, page, svg, table

_STYLE = """
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
.side pre, .prompt { white-space: pre-wrap; background: #f5f6f8; padding: .8rem; border-radius: .4rem; margin: 0; }
.read { white-space: pre-wrap; font: 15px/2 ui-monospace, monospace; }
.read span { border-radius: .2rem; padding: .15rem 0; } .read .other { border-bottom: 2px solid #1b1f24; }
.from td + td { text-align: left; overflow-wrap: anywhere; }
"""
_BLUE, _RED, _GREY = "#0b63a5", "#c0392b", "#8a949e"
_MARKERS = "osD^v<>ph*"  # one for each kind of contender, and one more
_STRONG = 4.0  # bits: the deepest shade
_FAR = 20  # times as slow: too far apart for one scale that is not logarithmic


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Writes the page.

    Args:
        evaluation: What was measured.
        path: The HTML file.

    Raises:
        VocabridgeError: matplotlib is missing, or the file cannot be written.
    """
    body = f"""<h1>What the bridge is worth</h1>
<p>{html.escape(evaluation.title)}. What was fitted or chosen was so on validation items, never on these.</p>
{table(evaluation.header, evaluation.rows())}
<figure>{_bits(evaluation)}</figure>
{_gaps(evaluation)}
<h2>Quality against cost</h2>
<figure>{_quality(evaluation)}</figure>
{table(evaluation.COSTS, evaluation.costs())}
{_classes(evaluation)}
{_fits(evaluation)}
{_alphas(evaluation)}
<h2>Texts</h2>
{_samples(evaluation)}
<h2>Where it comes from</h2>
<div class="from">{table(("", ""), [(name, _known(value)) for name, value in _provenance(evaluation).items()])}</div>"""
    write_atomically(path, page(evaluation.title, body, _STYLE).encode())


def _bits(evaluation: Evaluation) -> str:
    """Bits per byte of every contender with its interval, as SVG."""
    rows = [(one.name, one.bits_per_byte) for one in evaluation.measured if one.bits_per_byte]
    return _intervals(rows, "bits per byte of the responses (less is better), 95% intervals")


def _gaps(evaluation: Evaluation) -> str:
    """The share of the gap between base and ceiling that each contender recovers."""
    ends = (label_of(Contender.BASE), label_of(Contender.CEILING))
    rows = [(one.name, one.gap_recovered) for one in evaluation.measured if one.gap_recovered and one.name not in ends]
    if not rows:
        return ""
    plot = _intervals(rows, "gap recovered: 0 is the base, 1 the ceiling; 95% intervals", marks=(0.0, 1.0))
    return f"<h2>Gap recovered</h2><figure>{plot}</figure>"


def _intervals(rows: Sequence[tuple[str, Interval]], label: str, marks: Sequence[float] = ()) -> str:
    figure = new_figure(7, 0.5 * len(rows) + 1)
    axes = figure.subplots()
    for place, (name, one) in enumerate(reversed(rows)):
        spread = [[one.value - one.low], [one.high - one.value]]
        color = _RED if name == label_of(Contender.BRIDGE) else _BLUE
        axes.errorbar(one.value, place, xerr=spread, fmt="o", capsize=4, color=color)
    for mark in marks:
        axes.axvline(mark, color=_GREY, linestyle=":")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.3)
    return svg(figure)


def _quality(evaluation: Evaluation) -> str:
    """Bits per byte against milliseconds a token."""
    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    places = sorted(
        (one.token_ms, one.bits_per_byte.value, one.name)
        for one in evaluation.measured
        if one.bits_per_byte is not None and one.token_ms is not None
    )
    for marker, (time, bits, name) in zip(_MARKERS, places, strict=False):
        axes.plot(time, bits, marker, color=_RED if name == label_of(Contender.BRIDGE) else _BLUE, label=name)
    if places and places[-1][0] > _FAR * places[0][0]:
        axes.set_xscale("log")
    axes.set_xlabel("milliseconds a token")
    axes.set_ylabel("bits per byte")
    axes.grid(alpha=0.3)
    axes.margins(0.2)
    if places:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)  # names beside points run into each other
    return svg(figure)


def _classes(evaluation: Evaluation) -> str:
    """Bits by class of token, and what the bridge gains over the base in each."""
    names = [one.name for one in evaluation.measured]
    if not evaluation.classes or label_of(Contender.BRIDGE) not in names:
        return ""
    gains = [
        (one.name, one.bits_per_byte[label_of(Contender.BASE)] - one.bits_per_byte[label_of(Contender.BRIDGE)])
        for one in evaluation.classes
    ]
    figure = new_figure(7, 0.4 * len(gains) + 1)
    axes = figure.subplots()
    shown = gains[::-1]
    axes.barh(
        [name for name, _ in shown], [gain for _, gain in shown], color=[_BLUE if g > 0 else _RED for _, g in shown]
    )
    axes.axvline(0, color=_GREY)
    axes.set_xlabel("bits per byte that the bridge saves over the base")
    axes.grid(axis="x", alpha=0.3)
    rows = [
        (one.name, f"{one.tokens:,}", *(f"{one.bits_per_byte[name]:.3f}" for name in names))
        for one in evaluation.classes
    ]
    return f"""<h2>By class of token</h2>
<p>By the base's tokens of the responses. A boundary is common where the donor's tokenizer cuts there, too.</p>
<figure>{svg(figure)}</figure>
{table(("", "tokens", *names), rows)}"""


def _fits(evaluation: Evaluation) -> str:
    """What was tried on the validation items for each contender, the best first."""
    header = (
        "",
        "policy",
        "method",
        "form",
        "a (base)",
        "b (tuned)",
        "c (untuned)",
        "alpha",
        "bits a token",
        "at (1, 1, 1)",
    )
    rows = [
        row for one in evaluation.measured for fit in (one.setting or {}).get("fits", []) for row in [_fit(one, fit)]
    ]
    if not rows:
        return ""
    return f"""<h2>What was chosen</h2>
<p>Every combination with its weights, fitted or given, and the best alpha of those to try, on the validation items.
Each contender uses its first.</p>
{table(header, rows)}"""


def _fit(one: Measured, fit: dict[str, Any]) -> tuple[str, ...]:
    weights = fit["combination"]
    unused = weights["method"] in ("linear", "exponential") or weights["form"] == "mixture"
    return (
        one.name,
        fit["policy"],
        weights["method"],
        weights["form"],
        f"{weights['base_weight']:.2f}",
        f"{weights['tuned_weight']:.2f}",
        "-" if unused else f"{weights['untuned_weight']:.2f}",
        f"{fit.get('strength', 1.0):g}",
        f"{fit['bits']:.3f}",
        "-" if fit["paper_bits"] is None else f"{fit['paper_bits']:.3f}",
    )


def _alphas(evaluation: Evaluation) -> str:
    """What the chosen combinations cost on the validation items, by their strength."""
    header, rows = evaluation.by_alpha()
    if not rows:
        return ""
    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    for one in evaluation.measured:
        if found := (one.setting or {}).get("by_alpha"):
            color = _RED if one.name == label_of(Contender.BRIDGE) else None
            axes.plot([at["alpha"] for at in found], [at["bits"] for at in found], "o-", label=one.name, color=color)
    axes.set_xlabel("alpha: 0 is the base")
    axes.set_ylabel("bits a token")
    axes.grid(alpha=0.3)
    axes.legend()
    return f"""<h2>By alpha</h2>
<p>Bits a token on the validation items, where the donor has a say, with what was chosen at other strengths.</p>
<figure>{svg(figure)}</figure>
{table(header, rows)}"""


def _samples(evaluation: Evaluation) -> str:
    """A few items: the response as the bridge reads it, and what every contender wrote."""
    read = [_read(sample) for sample in evaluation.samples]
    legend = """<p>Of each item the prompt, then the response of the data, token by token: blue where the bridge finds
a token likelier than the base does, red where less, underlined where its likeliest token is another. The pointer on a
token shows the numbers.</p>"""
    return (legend if any(read) else "") + "".join(
        f"<h3>Item {number}</h3>{_sample(sample, one)}"
        for number, (sample, one) in enumerate(zip(evaluation.samples, read, strict=True), start=1)
    )


def _sample(sample: Sample, read: str) -> str:
    cells = "".join(
        f"<div><h3>{html.escape(name)}</h3><pre>{html.escape(text.strip())}</pre></div>"
        for name, text in ({"reference": sample.reference} | sample.generations).items()
    )
    return f'<p class="prompt">{html.escape(sample.prompt.strip())}</p>{read}<div class="side">{cells}</div>'


def _read(sample: Sample) -> str:
    """The reference, each token shaded by what the bridge changed; blue where it became likelier, red where less."""
    base, bridge = (sample.readings.get(label_of(name)) for name in (Contender.BASE, Contender.BRIDGE))
    if base is None or bridge is None or base["ends"] != bridge["ends"]:
        return ""
    response, spans = sample.reference.encode(), []
    start = 0
    for end, before, after, was, is_now in zip(
        base["ends"], base["bits"], bridge["bits"], base["likeliest"], bridge["likeliest"], strict=True
    ):
        gain = before - after
        shade = min(1.0, abs(gain) / _STRONG) * 0.7
        color = f"rgba({'11, 99, 165' if gain > 0 else '192, 57, 43'}, {shade:.2f})"
        said = f"bits {before:.2f} to {after:.2f}; likeliest {was!r}" + ("" if was == is_now else f", now {is_now!r}")
        kind = "" if was == is_now else ' class="other"'
        text = html.escape(response[start:end].decode(errors="replace"))
        spans.append(f'<span{kind} style="background:{color}" title="{html.escape(said)}">{text}</span>')
        start = end
    return f'<p class="read">{"".join(spans)}</p>'


def _provenance(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "base model": evaluation.base,
        "value source": evaluation.value,
        "data": evaluation.data,
        "intervals": f"{evaluation.resamples:,} resamples, seed {evaluation.seed}",
        **{f"config: {name}": value for name, value in evaluation.config.items()},
    }


def _known(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
