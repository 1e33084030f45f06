"""What a projection costs and what a bridge gains, by policy, method and form, on the responses of a donor.

    python benchmarks/compare_methods.py --base gemma-3-270m --value my-values --data test.jsonl --validation val.jsonl
                                       [--untuned NAME] [--limit N] [--ways POLICY:METHOD ...] [--json FILE]

Bits per byte of the responses, teacher-forced. Per policy and method of distributions: the projected donor alone
(0, 1, 0) against the donor in its own vocabulary; then the product and the mixture with weights fitted on the
validation items, against the donor, with 95% intervals (items resampled). The methods of a change of logits have no
projected donor.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.fitting import FittedCombination, fit_combination, projected_features, required_scores
from vocabridge.bridge.model import Bridge
from vocabridge.evaluation.intervals import Interval, ratio
from vocabridge.evaluation.measuring import response_bits
from vocabridge.evaluation.scoring import evaluated_donor, evaluated_model
from vocabridge.models.examples import Example, load_examples, tokenize
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.methods import METHODS
from vocabridge.utils.progress import no_progress

WAYS = (
    "skip:informed",
    "as-is:informed",
    "heal:informed",
    "lookahead:informed",
    "as-is:static",
    "lookahead:static",
    "as-is:exponential",
    "heal:linear",
)


def bits_of(combination: Combination, log_p: Tensor, several: list[Tensor], truth: Tensor) -> Tensor:
    """Bits of the true tokens under a combination of features, (n,)."""
    if combination.form is Form.MIXTURE:
        share = combination.tuned_weight / (combination.base_weight + combination.tuned_weight)
        ends = torch.stack([f.gather(1, truth[:, None])[:, 0] for f in (log_p, several[0])])
        mixed = ends.exp().T @ torch.tensor([1 - share, share])
        return -mixed.log2()
    z = combination.base_weight * log_p + combination.tuned_weight * several[0]
    if len(several) > 1 and combination.untuned_weight:
        z -= combination.untuned_weight * several[1]
    return torch.nn.functional.cross_entropy(z, truth, reduction="none") / math.log(2)


@torch.no_grad()
def base_logits(bridge: Bridge, example: Example) -> tuple[list[int], Tensor, Tensor]:
    """Return the ids that the base reads of an example, the response's tokens (n,), and the base's logits, (n, |T|)."""
    tokens = tokenize(example, bridge.vocabulary)
    truth, ids = torch.tensor(tokens.ids[tokens.first :]), tokens.ids[:-1]
    logits = bridge.base(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=len(truth)).logits[0]
    return ids, truth, logits.float()


@torch.no_grad()
def bits_by_combination(
    bridge: Bridge, ids: list[int], truth: Tensor, logits: Tensor, used: Mapping[str, Combination]
) -> dict[str, float]:
    """Return the bits of a response, of which `base_logits` gave the rest, with the policy that is set."""
    methods = list(dict.fromkeys(combination.method for combination in used.values()))
    stream = bridge.steering.open_stream(1, required_scores(methods))
    positions = stream.advance([stream.pieces(ids)], len(truth))
    bits = dict.fromkeys(used, 0.0)
    for part, log_p, features, active in projected_features(bridge.steering, stream, positions, logits, methods):
        alone = -log_p.gather(1, truth[part, None])[:, 0] / math.log(2)
        for name, combination in used.items():
            found = bits_of(combination, log_p, list(features[combination.method]), truth[part])
            bits[name] += torch.where(active, found, alone).sum().item()
    return bits


def measure(
    bridge: Bridge,
    examples: list[Example],
    fits: dict[tuple[BoundaryPolicy, ProjectionMethod], list[FittedCombination]],
) -> dict[tuple[BoundaryPolicy, ProjectionMethod], dict[str, np.ndarray]]:
    """Bits of every response, by policy and method and what was made of it."""
    bits: dict[tuple[BoundaryPolicy, ProjectionMethod], dict[str, np.ndarray]] = {}
    for number, example in enumerate(track(examples, "test items")):
        read = base_logits(bridge, example)
        for (policy, method), fitted in fits.items():
            used = {fit.combination.form.value: fit.combination for fit in fitted}
            if not METHODS[method].of_logit_delta:
                used["donor"] = Combination(method, 0.0, 1.0, 0.0)
            bridge.steering.policy = policy
            for name, found in bits_by_combination(bridge, *read, used).items():
                kept = bits.setdefault((policy, method), {}).setdefault(name, np.zeros(len(examples)))
                kept[number] = found
    return bits


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "value", "data", "validation"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--untuned", help="with it, the value is the tuned model of a pair")
    parser.add_argument("--limit", type=int, help="take the first so many test items")
    parser.add_argument("--ways", nargs="+", default=WAYS, help="policy:method, of those to compare")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    started = perf_counter()
    bridge = build_bridge(arguments.base, arguments.value, untuned=arguments.untuned)
    steering = bridge.steering
    held_out = load_examples(Path(arguments.validation))
    examples = load_examples(Path(arguments.data), arguments.limit)
    ways = [
        (BoundaryPolicy(policy), ProjectionMethod(method))
        for policy, method in (way.split(":") for way in arguments.ways)
    ]
    fits: dict[tuple[BoundaryPolicy, ProjectionMethod], list[FittedCombination]] = {}
    for steering.policy, method in ways:
        fits[steering.policy, method] = fit_combination(bridge, held_out, methods=[method])
    base = response_bits(evaluated_model("base", bridge.base, bridge.vocabulary), examples, no_progress)
    own = response_bits(evaluated_donor("donor", steering.source), examples, no_progress)
    bits = measure(bridge, examples, fits)
    size = sum(len(example.response.encode()) for example in examples)

    def against(found: np.ndarray) -> Interval:
        return ratio(found, own, examples, lambda value: value - 1)

    rows = [
        {
            "policy": policy.value,
            "method": method.value,
            "what": name,
            "weights": next((f.combination.as_dict() for f in fitted if f.combination.form.value == name), None),
            "bits_per_byte": found.sum() / size,
            "against_donor": vars(against(found)),
        }
        for (policy, method), fitted in fits.items()
        for name, found in bits[policy, method].items()
    ]
    head = {
        "base": arguments.base,
        "value": arguments.value,
        "data": arguments.data,
        "items": len(examples),
        "base_bits_per_byte": base.sum() / size,
        "donor_bits_per_byte": own.sum() / size,
        "seconds": perf_counter() - started,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(head | {"rows": rows}, indent=2) + "\n", encoding="utf-8")
    title = (
        f"{arguments.value} on {arguments.base}, {len(examples)} items: base {head['base_bits_per_byte']:.3f}, "
        f"donor in its own vocabulary {head['donor_bits_per_byte']:.3f} bits per byte"
    )
    table = Table("policy", "method", "what", "bits per byte", "against the donor, %", title=title)
    for row in rows:
        change = Interval(**row["against_donor"]).text(2, 100)
        table.add_row(row["policy"], row["method"], row["what"], f"{row['bits_per_byte']:.4f}", change)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
