"""Draw the figure of README.md and docs/results from the report of an evaluation.

    python benchmarks/figures.py docs/results/demo.json --output docs/assets/quality-and-cost.svg

The report is the file that `vocabridge eval --output` or `vocabridge demo` wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vocabridge.alignment import write_atomically
from vocabridge.evaluation.plots import plot_quality_and_cost
from vocabridge.utils.html import svg_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="a report, JSON")
    parser.add_argument("--output", "-o", type=Path, required=True, help="the figure, SVG")
    options = parser.parse_args()
    report = json.loads(options.report.read_text(encoding="utf-8"))
    points = [
        (contender["name"], contender["bits_per_byte"]["value"], contender["token_ms"])
        for contender in report["measured"]
        if contender["bits_per_byte"] is not None and contender["token_ms"] is not None
    ]
    described = "; ".join(f"{name}: {bits:.3f} bits, {time:.0f} ms" for name, bits, time in points)
    figure = svg_file(plot_quality_and_cost(points), f"Bits per byte and milliseconds a token. {described}.")
    write_atomically(options.output, (figure + "\n").encode())


if __name__ == "__main__":
    main()
