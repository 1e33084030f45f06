"""What steering costs: the bridge against its parts, generating, scoring, and as the text grows.

    python benchmarks/bench_generate.py [--value my-values] [--base gemma-3-270m] [--batch 1 8] [--json FILE]

Generating: greedy steps after a context of so many tokens. The parts are the base model by itself and the models of
the value source by themselves, each writing its own text after the same context; the figure is the bridge's time a
step over the sum of theirs, medians of steps that are taken in turn, and beside it the share of the method (the
projection) in it. A bridge's step may take no forward of the source or two, so its mean is there, too. Scoring: the
cross-entropy of the context in one forward, against the parts' own, in turn, too. Memory: the most that the
process held while each generated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter
from typing import Any

import torch
from memory import held
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache

from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.data import value_network_folder
from vocabridge.models.joint_forward import run
from vocabridge.models.prompts import prompt_ids
from vocabridge.models.transformers_version import CACHE
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination

ROUNDS = 4
TOKENS = 24
TEXT = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
POLICIES = (BoundaryPolicy.AS_IS, BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD)


def contexts(bridge: Bridge, size: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of so many tokens of the base's, each row another, and the same in the source's tokens."""
    source = bridge.steering.source.vocabulary
    ids, own, start = [], [], 0
    for _ in range(batch):
        encoding = bridge.vocabulary.encode(TEXT[start : start + 8 * size])
        row = encoding.ids.tolist()[: size - len(bridge.vocabulary.bos_ids)]
        text = TEXT[start:].encode()[: int(encoding.starts[len(row)])].decode()
        ids.append(bridge.vocabulary.bos_ids + row)
        own.append(prompt_ids(source, text))
        start += 8 * size
    return torch.tensor(ids), torch.tensor([row[: min(map(len, own))] for row in own])


class Writer:
    """Writes greedily, step by step, with models whose logits are added; one that takes another's goes after it."""

    def __init__(self, models: Mapping[str, Any], ids: torch.Tensor) -> None:
        """Read the context."""
        self._models = models
        self._caches = {
            name: BridgeCache(DynamicCache(config=model.config)) if isinstance(model, Bridge) else DynamicCache()
            for name, model in models.items()
        }
        self._ids = ids
        self.step()

    @torch.no_grad()
    def step(self) -> None:
        """One more token a row."""
        ids = self._ids
        said = run(
            self._models,
            lambda name: {"input_ids": ids, CACHE: self._caches[name], "use_cache": True},
            keep=1,
        )
        self._ids = torch.stack([logits[:, -1] for logits in said.values()]).sum(0).argmax(-1, keepdim=True)


class ProjectedCosts:
    """Sums up the time spent in a projection."""

    def __init__(self, steering: Steering) -> None:
        """Time its informed method and the image that it shares with lookahead."""
        self.seconds = 0.0
        for name in ("informed", "image"):
            setattr(steering.projection, name, self._timed(getattr(steering.projection, name)))
        self._inside = False

    def _timed(self, work: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def timed(*arguments: object) -> torch.Tensor:
            if self._inside:
                return work(*arguments)
            self._inside, begin = True, perf_counter()
            try:
                return work(*arguments)
            finally:
                self._inside = False
                self.seconds += perf_counter() - begin

        return timed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="gemma-3-270m")
    parser.add_argument("--value", default=str(value_network_folder()))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--growth", type=int, nargs="*", default=[100, 4000], help="contexts for batch 1")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    bridge = build_bridge(arguments.base, arguments.value)
    steering = bridge.steering
    steering.combination = Combination(ProjectionMethod.INFORMED, 0.3, 0.7, 0.0)
    projected = ProjectedCosts(steering)
    models = {name: steering.source.models[name] for name in sorted(steering.models(("tuned",)))}
    console, found = Console(width=110), []

    def steered(policy: BoundaryPolicy, ids: torch.Tensor) -> Writer:
        steering.policy = policy
        return Writer({"bridge": bridge}, ids)

    def rows(size: int, batch: int, policies: Sequence[BoundaryPolicy]) -> list[dict[str, Any]]:
        ids, own = contexts(bridge, size, batch)
        writers = {"base": Writer({"base": bridge.base}, ids), "source": Writer(models, own)}
        writers |= {policy.value: steered(policy, ids) for policy in policies}
        times: dict[str, list[float]] = {name: [] for name in writers}
        shares: dict[str, float] = {}
        for _ in range(TOKENS):
            for name, writer in writers.items():
                steering.policy = BoundaryPolicy(name) if name not in ("base", "source") else steering.policy
                projected.seconds, begin = 0.0, perf_counter()
                writer.step()
                times[name].append(1000 * (perf_counter() - begin))
                shares[name] = shares.get(name, 0.0) + 1000 * projected.seconds
        middle = {name: statistics.median(several) for name, several in times.items()}
        parts = middle["base"] + middle["source"]
        return [
            {
                "what": f"generate, {policy.value}",
                "context": size,
                "batch": batch,
                "base_ms": middle["base"],
                "source_ms": middle["source"],
                "bridge_ms": middle[policy.value],
                "bridge_mean_ms": statistics.mean(times[policy.value]),
                "ratio": middle[policy.value] / parts,
                "projection_share": shares[policy.value] / sum(times[policy.value]),
            }
            for policy in policies
        ]

    def scoring(size: int) -> list[dict[str, Any]]:
        ids, own = contexts(bridge, size, 1)

        @torch.no_grad()
        def read(read_by: Mapping[str, Any], text: torch.Tensor) -> float:
            begin = perf_counter()
            said = run(read_by, lambda _name: {"input_ids": text, "use_cache": False}, keep=0)
            logits = sum(one[0, :-1].float() for one in said.values())
            torch.nn.functional.cross_entropy(logits, text[0, 1:])
            return 1000 * (perf_counter() - begin)

        def bridged(policy: BoundaryPolicy) -> float:
            steering.policy = policy
            return read({"bridge": bridge}, ids)

        works: dict[str, Callable[[], float]] = {
            "base": lambda: read({"base": bridge.base}, ids),
            "source": lambda: read(models, own),
        } | {policy.value: partial(bridged, policy) for policy in POLICIES}
        rounds = [{name: work() for name, work in works.items()} for _ in range(ROUNDS + 1)][1:]
        times = {name: [one[name] for one in rounds] for name in works}
        middle = {name: statistics.median(several) for name, several in times.items()}
        return [
            {
                "what": f"score, {policy.value}",
                "context": size,
                "batch": 1,
                "base_ms": middle["base"],
                "source_ms": middle["source"],
                "bridge_ms": middle[policy.value],
                "bridge_mean_ms": statistics.mean(times[policy.value]),
                "ratio": middle[policy.value] / (middle["base"] + middle["source"]),
                "projection_share": None,
            }
            for policy in POLICIES
        ]

    loaded = held()
    ids, own = contexts(bridge, arguments.context, 1)

    def write(writer: Callable[[], Writer]) -> None:
        written = writer()
        for _ in range(TOKENS):
            written.step()

    peaks = {
        "base": held(lambda: write(lambda: Writer({"base": bridge.base}, ids))),
        "source": held(lambda: write(lambda: Writer(models, own))),
        "bridge": held(lambda: write(lambda: steered(BoundaryPolicy.LOOKAHEAD, ids))),
    }
    for batch in arguments.batch:
        found += rows(arguments.context, batch, POLICIES)
    for size in arguments.growth:
        found += rows(size, 1, POLICIES)
    found += scoring(arguments.context)
    table = Table("what", "context", "batch", "base ms", "source ms", "bridge ms", "mean", "over the sum", "projection")
    for row in found:
        share = "-" if row["projection_share"] is None else f"{100 * row['projection_share']:.1f}%"
        times = [f"{row[name]:.0f}" for name in ("base_ms", "source_ms", "bridge_ms", "bridge_mean_ms")]
        table.add_row(row["what"], str(row["context"]), str(row["batch"]), *times, f"{row['ratio']:.2f}", share)
    console.print(table)
    sum_of_parts = peaks["base"] + peaks["source"] - loaded
    console.print(
        f"memory: {loaded:.0f} MB loaded; at most {peaks['base']:.0f} MB with the base generating, "
        f"{peaks['source']:.0f} MB with the source, {peaks['bridge']:.0f} MB with the bridge: "
        f"{peaks['bridge'] / sum_of_parts:.2f} of the sum"
    )
    if arguments.json:
        memory = {"loaded_megabytes": loaded, "peak_megabytes": peaks}
        arguments.json.write_text(json.dumps({"rows": found} | memory, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
