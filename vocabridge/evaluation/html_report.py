"""An evaluation as one self-contained HTML page: tables, plots, and what steering changed, token by token."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocabridge.alignment import write_atomically
from vocabridge.evaluation.contenders import label_of
from vocabridge.evaluation.plots import plot_gains, plot_intervals, plot_quality_and_cost, plot_strengths
from vocabridge.evaluation.results import Evaluation, Measured, Sample
from vocabridge.options import Contender
from vocabridge.utils.html import page, svg, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.texts pre, .prompt { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--box); padding: .8rem;
  border-radius: .4rem; margin: 0; font: 14px/1.5 ui-monospace, monospace; }
.tokens { white-space: pre-wrap; font: 15px/2 ui-monospace, monospace; }
.tokens span, .key span { border-radius: .2rem; padding: .15rem 0; } .key span { padding: .15rem .4rem; }
.other { border-bottom: 2px solid var(--ink); }
.costs td:last-child { white-space: normal; min-width: 18rem; }
.costs th:last-child, .costs td:last-child { text-align: left; }
"""
_DARKEST = 4.0  # bits by which a probability changes
_RAISED, _LOWERED = "11, 99, 165", "192, 57, 43"
_ENDS = frozenset((label_of(Contender.BASE), label_of(Contender.CEILING)))  # of the gap


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the page.

    Args:
        evaluation: What was measured.
        path: The HTML file.

    Raises:
        VocabridgeError: matplotlib is missing, or the file cannot be written.
    """
    body = f"""<h1>What the bridge is worth</h1>
<p>{html.escape(evaluation.title)}. Settings were fitted and chosen on validation items, never on these.</p>
<p>{_directions(evaluation)}</p>
{table(evaluation.header, evaluation.rows())}
{_bits(evaluation)}
{_gaps(evaluation)}
<h2>Quality against cost</h2>
{_quality(evaluation)}
{table(evaluation.COSTS, evaluation.costs(), "costs")}
{_classes(evaluation)}
{_fits(evaluation)}
{_alphas(evaluation)}
<h2>Texts</h2>
{_samples(evaluation)}
<h2>Provenance</h2>
{table(("", ""), [(name, _text(value)) for name, value in _provenance(evaluation).items()], "facts")}"""
    write_atomically(path, page(evaluation.title, body, _STYLE).encode())


def _directions(evaluation: Evaluation) -> str:
    """Say which direction is better in the first table."""
    sentences = ["Fewer bits per byte and fewer milliseconds are better."]
    if evaluation.answered or evaluation.chosen:
        sentences.append("More right answers are better.")
    if evaluation.differences:
        sentences.append("In a line &ldquo;bridge against&rdquo;, fewer bits than the other has are a negative share.")
    if any(contender.gap_recovered for contender in evaluation.measured):
        sentences.append("A higher share of the gap is better: at 100% a contender is as good as the ceiling.")
    return " ".join(sentences)


def _figure(figure: Figure, description: str) -> str:
    return f"<figure>{svg(figure, description)}</figure>"


def _bits(evaluation: Evaluation) -> str:
    """Plot bits per byte of every contender with its interval."""
    rows = [(contender.name, contender.bits_per_byte) for contender in evaluation.measured if contender.bits_per_byte]
    label = "bits per byte of the responses\n(lower is better; 95% intervals)"
    return _figure(plot_intervals(rows, label), "Bits per byte of every contender, as in the table above.")


def _gaps(evaluation: Evaluation) -> str:
    """Plot the share of the gap between base and ceiling that each contender recovers."""
    rows = [
        (contender.name, contender.gap_recovered)
        for contender in evaluation.measured
        if contender.gap_recovered and contender.name not in _ENDS
    ]
    if not rows:
        return ""
    label = "gap recovered: 0 is the base, 1 the ceiling\n(higher is better; 95% intervals)"
    figure = plot_intervals(rows, label, marks=(0.0, 1.0))
    return "<h2>Gap recovered</h2>" + _figure(figure, "Gap recovered by every contender, as in the table above.")


def _quality(evaluation: Evaluation) -> str:
    """Plot bits per byte against milliseconds a token."""
    points = [
        (contender.name, contender.bits_per_byte.value, contender.token_ms)
        for contender in evaluation.measured
        if contender.bits_per_byte is not None and contender.token_ms is not None
    ]
    description = "Bits per byte against milliseconds a token of every contender, as in the tables above and below."
    return _figure(plot_quality_and_cost(points), description)


def _classes(evaluation: Evaluation) -> str:
    """Show bits by class of token, and what the bridge gains over the base in each."""
    names = [contender.name for contender in evaluation.measured]
    base, bridge = label_of(Contender.BASE), label_of(Contender.BRIDGE)
    if not evaluation.classes or bridge not in names:
        return ""
    gains = [(part.name, part.bits_per_byte[base] - part.bits_per_byte[bridge]) for part in evaluation.classes]
    figure = plot_gains(gains, "bits per byte that the bridge saves over the base\n(higher is better)")
    rows = [
        (part.name, f"{part.tokens:,}", *(f"{part.bits_per_byte[name]:.3f}" for name in names))
        for part in evaluation.classes
    ]
    return f"""<h2>By class of token</h2>
<p>Bits per byte by the base's tokens of the responses; lower is better. A boundary is common where the donor's
tokenizer has one, too.</p>
{_figure(figure, "Bits per byte that the bridge saves over the base in each class of token.")}
{table(("", "tokens", *names), rows)}"""


def _fits(evaluation: Evaluation) -> str:
    """Show every combination that was tried on the validation items, by contender, the best first."""
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
Lower bits a token are better, and each contender uses the first of its lines.</p>
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
    """Show what the chosen combinations cost on the validation items, by their strength."""
    header, rows = evaluation.by_alpha()
    if not rows:
        return ""
    lines = [
        (contender.name, [(at["alpha"], at["bits"]) for at in by_alpha])
        for contender in evaluation.measured
        if (by_alpha := (contender.setting or {}).get("by_alpha"))
    ]
    return f"""<h2>By alpha</h2>
<p>Bits a token on the validation items, with the chosen combination at other strengths, at the tokens for which the
donor has predictions.</p>
{_figure(plot_strengths(lines), "Bits a token by alpha, as in the table below.")}
{table(header, rows)}"""


def _samples(evaluation: Evaluation) -> str:
    """Show a few items: the bits of the response, token by token, and what every contender wrote."""
    tokens = [_tokens(sample) for sample in evaluation.samples]
    legend = f"""<p class="key">Each item has its prompt, then the response of the data, token by token. A token is
<span style="background:rgba({_RAISED}, 0.5)">blue</span> where the bridge gives it a higher probability than the base
does, which is better, <span style="background:rgba({_LOWERED}, 0.5)">red</span> where a lower one, and
<span class="other">underlined</span> where the most likely token of the two is not the same. Point at a token to see
the numbers. The texts below it are what each contender wrote.</p>"""
    return (legend if any(tokens) else "") + "".join(
        f"<h3>Item {number}</h3>{_sample(sample, spans)}"
        for number, (sample, spans) in enumerate(zip(evaluation.samples, tokens, strict=True), start=1)
    )


def _sample(sample: Sample, tokens: str) -> str:
    cells = "".join(
        f"<div><h3>{html.escape(name)}</h3><pre>{html.escape(text.strip())}</pre></div>"
        for name, text in ({"reference": sample.reference} | sample.generations).items()
    )
    return f'<p class="prompt">{html.escape(sample.prompt.strip())}</p>{tokens}<div class="texts">{cells}</div>'


def _tokens(sample: Sample) -> str:
    """Render the response, each token blue where the bridge raises its probability and red where it lowers it."""
    base, bridge = (sample.readings.get(label_of(name)) for name in (Contender.BASE, Contender.BRIDGE))
    if base is None or bridge is None or base["ends"] != bridge["ends"]:
        return ""
    response, spans = sample.reference.encode(), []
    start = 0
    for end, before, after, most_likely, now in zip(
        base["ends"], base["bits"], bridge["bits"], base["most_likely"], bridge["most_likely"], strict=True
    ):
        shade = min(1.0, abs(before - after) / _DARKEST) * 0.7
        color = f"rgba({_RAISED if before > after else _LOWERED}, {shade:.2f})"
        numbers = f"bits {before:.2f} to {after:.2f}; most likely {most_likely!r}"
        numbers += "" if most_likely == now else f", now {now!r}"
        kind = "" if most_likely == now else ' class="other"'
        text = html.escape(response[start:end].decode(errors="replace"))
        spans.append(f'<span{kind} style="background:{color}" title="{html.escape(numbers)}">{text}</span>')
        start = end
    return f'<p class="tokens">{"".join(spans)}</p>'


def _provenance(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "base model": evaluation.base,
        "value source": evaluation.value,
        "data": evaluation.data,
        "intervals": f"{evaluation.resamples:,} resamples, seed {evaluation.seed}",
        **{f"config: {name}": value for name, value in evaluation.config.items()},
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
