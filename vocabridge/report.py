"""An evaluation as one self-contained HTML page: the table, a plot with intervals, generations side by side."""

from __future__ import annotations

import html
from pathlib import Path

from vocabridge.alignment import Alignment, write_whole
from vocabridge.combination import Form
from vocabridge.evaluation import Evaluation
from vocabridge.page import new_figure, page, svg, table

_STYLE = """
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
.side pre, .prompt { white-space: pre-wrap; background: #f5f6f8; padding: .8rem; border-radius: .4rem; margin: 0; }
"""


def write_report(evaluation: Evaluation, alignment: Alignment, path: Path) -> None:
    """Writes the page.

    Args:
        evaluation: What was measured.
        alignment: The alignment that the bridge used, for its provenance.
        path: The HTML file.

    Raises:
        VocabridgeError: matplotlib is missing, or the file cannot be written.
    """
    body = f"""<h1>What the bridge is worth</h1>
<p>{html.escape(evaluation.title)}. Weights fitted on validation items, never on these.</p>
{table(evaluation.header, evaluation.rows())}
<figure>{_plot(evaluation)}</figure>
<h2>The combination</h2>
<p>Every carry and form with its best weights on the validation items; the bridge uses the first.</p>
{table(("carry", "form", "a (base)", "b (tuned)", "c (untuned)", "bits a token", "at (1, 1, 1)"), _fits(evaluation))}
<h2>Generations</h2>
{"".join(_sample(sample.prompt, sample.reference, sample.generations) for sample in evaluation.samples)}
<h2>Where it comes from</h2>
{table(("", ""), _provenance(evaluation, alignment))}"""
    write_whole(path, page(evaluation.title, body, _STYLE).encode())


def _fits(evaluation: Evaluation) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for fit in evaluation.fits:
        weights = fit.combination
        unused = weights.carry.of_delta or weights.form is Form.MIXTURE
        rows.append(
            (
                weights.carry.value,
                weights.form.value,
                f"{weights.base:.2f}",
                f"{weights.tuned:.2f}",
                "-" if unused else f"{weights.untuned:.2f}",
                f"{fit.bits:.3f}",
                "-" if fit.paper_bits is None else f"{fit.paper_bits:.3f}",
            )
        )
    return rows


def _sample(prompt: str, reference: str, generations: dict[str, str]) -> str:
    cells = "".join(
        f"<div><h3>{html.escape(name)}</h3><pre>{html.escape(text.strip())}</pre></div>"
        for name, text in ({"reference": reference} | generations).items()
    )
    return f'<p class="prompt">{html.escape(prompt)}</p><div class="side">{cells}</div>'


def _provenance(evaluation: Evaluation, alignment: Alignment) -> list[tuple[str, str]]:
    corpus = "none" if alignment.corpus is None else f"{alignment.corpus.bytes:,} bytes, {alignment.corpus.digest[:12]}"
    return [
        ("base model", evaluation.base),
        ("value source", evaluation.value),
        ("alignment", f"{alignment.method}, {alignment.counts.nnz:,} entries"),
        ("corpus of the alignment", corpus),
        ("source tokenizer", f"{alignment.source.size:,} ids, {alignment.source.fingerprint[:12]}"),
        ("target tokenizer", f"{alignment.target.size:,} ids, {alignment.target.fingerprint[:12]}"),
        ("test items", f"{evaluation.items} of {evaluation.data}"),
        ("time", f"{evaluation.seconds:.0f} s"),
    ]


def _plot(evaluation: Evaluation) -> str:
    """Bits per byte of every contestant with its interval, as SVG."""
    figure = new_figure(7, 0.6 * len(evaluation.measured) + 1)
    axes = figure.subplots()
    for place, one in enumerate(reversed(evaluation.measured)):
        bits = one.bits_per_byte
        spread = [[bits.value - bits.low], [bits.high - bits.value]]
        axes.errorbar(bits.value, place, xerr=spread, fmt="o", capsize=4, color="#0b63a5")
    axes.set_yticks(range(len(evaluation.measured)), [one.name for one in reversed(evaluation.measured)])
    axes.set_xlabel("bits per byte of the responses (less is better), 95% intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.3)
    return svg(figure)
