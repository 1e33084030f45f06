"""What a bridge is worth with weights that nobody fitted: bits a byte of the paper's sum, some candidates, and the fit.

    python benchmarks/compare_weights.py --base gemma-3-270m --value my-values --data test.jsonl --validation val.jsonl
                                         [--limit N] [--fit N]

Teacher-forced on the responses, by the informed method with lookahead. The weights (a, b, c) are those of the base, the
tuned and the untuned model. What `combination.UNFITTED` is, was chosen by this.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from compare_methods import base_logits, bits_by_combination
from rich.console import Console
from rich.table import Table

from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.fitting import fit_combination
from vocabridge.models.examples import load_examples
from vocabridge.options import Form, ProjectionMethod
from vocabridge.projection.combination import UNFITTED, Combination

CANDIDATES = {
    "base alone": (1.0, 0.0, 0.0),
    "donor alone": (0.0, 1.0, 0.0),
    "the paper's sum": (1.0, 1.0, 1.0),
    "product of experts": (0.5, 0.5, 0.0),
    "three weights": (0.45, 0.75, 0.1),
    "two weights": (0.45, 0.75, 0.0),
    "two weights, sum 1": (0.35, 0.65, 0.0),
    "three weights, less base": (0.3, 0.85, 0.1),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "value", "data", "validation"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, help="take the first so many test items")
    parser.add_argument("--fit", type=int, help="fit on the first so many validation items")
    arguments = parser.parse_args()
    bridge = build_bridge(arguments.base, arguments.value)
    fits = fit_combination(
        bridge, load_examples(Path(arguments.validation), arguments.fit), methods=[ProjectionMethod.INFORMED]
    )
    used = {name: Combination(ProjectionMethod.INFORMED, *weights) for name, weights in CANDIDATES.items()}
    used |= {"UNFITTED": UNFITTED}
    used |= {f"fitted {fit.combination.form.value}": fit.combination for fit in fits}
    examples = load_examples(Path(arguments.data), arguments.limit)
    bits = dict.fromkeys(used, 0.0)
    for example in examples:
        for name, found in bits_by_combination(bridge, *base_logits(bridge, example), used).items():
            bits[name] += found
    size = sum(len(example.response.encode()) for example in examples)
    title = f"{arguments.value} on {arguments.base}, {len(examples)} items of {arguments.data}"
    table = Table("weights", "a", "b", "c", "bits per byte", title=title)
    for name, one in used.items():
        weights = [one.base_weight, one.tuned_weight, math.nan if one.form is Form.MIXTURE else one.untuned_weight]
        table.add_row(name, *(f"{weight:.2f}" for weight in weights), f"{bits[name] / size:.3f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
