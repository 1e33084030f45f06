"""What a value network is worth by how it was trained: on its source model, on another one, across vocabularies.

    python benchmarks/compare_training.py CONFIG ... --source smollm2-135m-instruct --onto gemma-3-270m --task DIR
                                          --output DIR [--other MODEL] [--texts 300] [--items 100] [--across 40]

CONFIG is `scheme=cascade+,method=full,seed=1` and so on, fields of `TrainingConfig`; `default` is the command's own.
DIR holds what `tasks.py` writes. Bits a byte of the test responses: "own" with the source model it was trained on;
"other" with a base of the same tokenizer that it has never seen; "across" the bridge onto another family, with weights
fitted on validation items, product and mixture, and its change of logits alone, as the paper has it (1, 1, 1) and
fitted. Networks and `figures.jsonl` are kept in --output, so the same call goes on, and prints what is there.
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from compare_methods import base_logits, bits_by_combination
from rich.console import Console
from rich.table import Table

from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.fitting import fit_combination
from vocabridge.bridge.model import Bridge
from vocabridge.evaluation.intervals import ratio
from vocabridge.evaluation.measuring import response_bits
from vocabridge.evaluation.scoring import evaluated_donor, evaluated_model
from vocabridge.models.examples import Example, load_examples
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.models.value_network import ValueNetwork, load_value_network
from vocabridge.models.value_network_files import CONFIG
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.training.config import TrainingConfig
from vocabridge.training.train import train_value_network
from vocabridge.utils.progress import no_progress

METHOD_NAMES = [ProjectionMethod.INFORMED, ProjectionMethod.EXPONENTIAL]


def config_of(text: str, source: str) -> TrainingConfig:
    """Read a config from `name=value,name=value`."""
    hints = get_type_hints(TrainingConfig)
    fields: dict[str, Any] = {}
    for part in [] if text == "default" else text.split(","):
        name, _, value = part.partition("=")
        hint = hints[name]
        kind = get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint
        several = get_origin(kind) is tuple
        fields[name] = tuple(value.split("+")) if several else value == "True" if kind is bool else kind(value)
    return TrainingConfig(source=source, **fields)


def across(bridge: Bridge, examples: list[Example], held_out: list[Example]) -> dict[str, np.ndarray]:
    """Bits of every response, by what the source's words are made into."""
    fits = fit_combination(bridge, held_out, methods=METHOD_NAMES)
    used = {f"{fit.combination.method.value} {fit.combination.form.value}": fit.combination for fit in fits}
    used["projected donor"] = Combination(ProjectionMethod.INFORMED, 0.0, 1.0, 0.0)
    used["the paper's sum"] = Combination(ProjectionMethod.EXPONENTIAL, 1.0, 1.0, 1.0)
    found = [bits_by_combination(bridge, *base_logits(bridge, example), used) for example in examples]
    return {name: np.array([bits[name] for bits in found]) for name in used}


def measured(folder: Path, other: LoadedModel | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one network."""
    test = load_examples(arguments.task / "test.jsonl")
    some, few = test[: arguments.items], test[: arguments.across]
    network = load_value_network(folder)

    def of(examples: list[Example], found: np.ndarray, against: np.ndarray) -> dict[str, Any]:
        size = sum(len(example.response.encode()) for example in examples)
        change: Callable[[np.ndarray], np.ndarray] = lambda value: value - 1  # noqa: E731
        return {
            "bits_per_byte": float(found.sum()) / size,
            "change": vars(ratio(found, against, examples, change)),
        }

    small = evaluated_model("base", network.source_model, network.vocabulary)
    base, own = (response_bits(one, some, no_progress) for one in (small, evaluated_donor("donor", network)))
    figures: dict[str, Any] = {"base": of(some, base, base), "own": of(some, own, base)}
    if other is not None:
        moved = ValueNetwork(other, network.value, network.config, str(folder))
        alone = response_bits(evaluated_model("other", other.model, other.vocabulary), some, no_progress)
        figures["other base"] = of(some, alone, alone)
        figures["other"] = of(some, response_bits(evaluated_donor("donor", moved), some, no_progress), alone)
    if arguments.across:
        bridge = build_bridge(arguments.onto, str(folder))
        target = response_bits(evaluated_model("base", bridge.base, bridge.vocabulary), few, no_progress)
        figures["target"] = of(few, target, target)
        figures["donor"] = of(few, own[: arguments.across], target)
        found = across(bridge, few, load_examples(arguments.task / "validation.jsonl", arguments.fit))
        figures["across"] = {name: of(few, bits, target) for name, bits in found.items()}
        best = min((name for name in found if name.startswith("informed")), key=lambda name: found[name].sum())
        figures["bridge against donor"] = of(few, found[best], own[: arguments.across])["change"]
    return figures


def show(path: Path) -> None:
    """Print all figures that are kept."""
    table = Table("config", "s", "nats", "size", "changed", "own", "other", "across: sum", "change", "donor", "bridge")
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        figures = entry["figures"]
        over = figures.get("across", {})

        def said(part: dict[str, Any] | None) -> str:
            return "-" if part is None else f"{part['bits_per_byte']:.3f} ({100 * part['change']['value']:+.1f}%)"

        bridge = min(
            (over[n] for n in over if n.startswith("informed")), key=lambda p: p["bits_per_byte"], default=None
        )
        changes = [over.get("the paper's sum"), over.get("exponential product"), over.get("projected donor"), bridge]
        table.add_row(
            entry["config"],
            f"{entry['seconds']:.0f}",
            *(f"{entry[name]:.3f}" for name in ("nats", "norm", "changed")),
            *(said(part) for part in (figures["own"], figures.get("other"), *changes)),
        )
    Console(width=160).print(table)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*")
    parser.add_argument("--source", required=True)
    parser.add_argument("--onto", required=True)
    parser.add_argument("--other", help="a base of the same tokenizer that the networks were not trained on")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=300, help="train on the first so many")
    parser.add_argument("--items", type=int, default=100, help="test items in the source vocabulary")
    parser.add_argument("--across", type=int, default=40, help="the first so many of them across vocabularies")
    parser.add_argument("--fit", type=int, default=20, help="validation items for the bridge's weights")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept = arguments.output / "figures.jsonl"
    data = arguments.output / f"first-{arguments.texts}.jsonl"
    lines = (arguments.task / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines[: arguments.texts]), encoding="utf-8")
    other = None if arguments.other is None else load_model(arguments.other)
    for config in arguments.configs:
        done = [json.loads(line)["config"] for line in kept.read_text().splitlines()] if kept.exists() else []
        if config in done:
            continue
        folder, started = arguments.output / config.replace("=", "-").replace(",", "_"), perf_counter()
        if not (folder / CONFIG).is_file():
            train_value_network(config_of(config, arguments.source), data, folder)
        trained = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["training"]
        entry = {
            "config": config,
            "seconds": trained["seconds"],
            "nats": trained["losses"][-1],
            "norm": trained["norms"][-1],
            "changed": trained["changed"][-1],
            "figures": measured(folder, other, arguments),
            "seconds_with_measuring": perf_counter() - started,
        }
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    show(kept)


if __name__ == "__main__":
    main()
