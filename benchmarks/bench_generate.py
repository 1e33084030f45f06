"""What steering costs: the bridge against its parts, generating, scoring, and as the text grows.

    python benchmarks/bench_generate.py [--value my-values] [--base gemma-3-270m] [--batch 1 8] [--json FILE]

Generating: greedy tokens behind a context of so many, batch by batch. The parts are the base model by itself and the
models of the value source by themselves, each generating as many tokens of its own behind the same text; the figure is
the bridge's time a token over the sum of theirs, and beside it the share of the carry (projection) in it. Scoring: one
forward over the context, against the parts' own. Memory: the most that the process held while each ran, less what
it held before (the sum of the weights). All in one process, the works in turn, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache, GenerationConfig

from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination
from vocabridge.data import value_network_folder
from vocabridge.loading import build_bridge
from vocabridge.policy import Policy
from vocabridge.reader import begin_tokens
from vocabridge.steering import Steering

ROUNDS = 2
TOKENS = 32
TEXT = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
POLICIES = (Policy.RETOKENIZE, Policy.HEAL, Policy.LOOK_AHEAD)


def medians(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each piece of work, all done in turn after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            begin = perf_counter()
            work()
            if number:
                seconds[name].append(perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def context(bridge: Bridge, size: int, batch: int) -> tuple[torch.Tensor, list[str]]:
    """Texts of so many tokens of the base's, each row another."""
    ids, texts, start = [], [], 0
    for _ in range(batch):
        encoding = bridge.vocabulary.encode(TEXT[start : start + 8 * size])
        begin = begin_tokens(bridge.vocabulary)
        row = encoding.ids.tolist()[: size - len(begin)]
        texts.append(TEXT[start:].encode()[: int(encoding.starts[len(row)])].decode())
        ids.append(begin + row)
        start += 8 * size
    return torch.tensor(ids), texts


def generate(bridge: Bridge, model: torch.nn.Module, ids: torch.Tensor, tokens: int) -> None:
    """Greedy, exactly so many tokens."""
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)  # type: ignore[operator]


@torch.no_grad()
def alone(models: dict[str, torch.nn.Module], ids: torch.Tensor, tokens: int) -> None:
    """The value source's models by themselves: greedy by their own sum, with their own caches."""
    caches = {name: DynamicCache() for name in models}
    for _ in range(tokens):
        logits = [
            model(input_ids=ids, past_key_values=caches[name], use_cache=True, logits_to_keep=1).logits[:, -1]
            for name, model in models.items()
        ]
        ids = torch.stack(logits).sum(0).argmax(-1, keepdim=True)


class Carried:
    """Sums up the time spent in a projection."""

    def __init__(self, steering: Steering) -> None:
        """Times its informed carry and the image that it shares with look-ahead."""
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


def held(work: Callable[[], object] | None = None) -> float:
    """Megabytes of memory that this process holds now, or held at most while it worked."""
    if work is not None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from now
        work()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:" if work is None else "VmHWM:")[1].split()[0]) / 1000


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
    steering.combination = Combination(Carry.INFORMED, 0.3, 0.7, 0.0)
    carried = Carried(steering)
    models = {name: steering.source.models[name] for name in sorted(steering.models(("tuned",)))}
    console, found = Console(width=110), []

    def steered(policy: Policy, ids: torch.Tensor, tokens: int) -> None:
        steering.policy = policy
        generate(bridge, bridge, ids, tokens)

    def rows(size: int, batch: int, policies: tuple[Policy, ...]) -> list[dict[str, object]]:
        ids, texts = context(bridge, size, batch)
        own = [
            begin_tokens(steering.source.vocabulary) + e.ids.tolist()
            for e in steering.source.vocabulary.encode_batch(texts)
        ]
        theirs = torch.tensor([row[: min(map(len, own))] for row in own])
        works: dict[str, Callable[[], object]] = {}
        for tokens in (1, 1 + TOKENS):
            works[f"base {tokens}"] = lambda tokens=tokens: generate(bridge, bridge.base, ids, tokens)
            works[f"source {tokens}"] = lambda tokens=tokens: alone(models, theirs, tokens)
            for policy in policies:
                works[f"{policy.value} {tokens}"] = lambda tokens=tokens, policy=policy: steered(policy, ids, tokens)
        seconds = medians(works)
        each = {
            name: 1000 * (seconds[f"{name} {1 + TOKENS}"] - seconds[f"{name} 1"]) / TOKENS
            for name in ("base", "source", *(policy.value for policy in policies))
        }
        parts = each["base"] + each["source"]
        result = []
        for policy in policies:
            carried.seconds = 0.0
            begin = perf_counter()
            steered(policy, ids, 1 + TOKENS)
            whole = perf_counter() - begin
            steered(policy, ids, 1)
            in_carry = 1000 * carried.seconds / (TOKENS + 2)
            result.append(
                {
                    "what": f"generate, {policy.value}",
                    "context": size,
                    "batch": batch,
                    "base_ms": each["base"],
                    "source_ms": each["source"],
                    "bridge_ms": each[policy.value],
                    "ratio": each[policy.value] / parts,
                    "projection_share": in_carry / each[policy.value],
                    "whole_seconds": whole,
                }
            )
        return result

    def scoring(size: int) -> list[dict[str, object]]:
        ids, texts = context(bridge, size, 1)
        own = torch.tensor(
            [begin_tokens(steering.source.vocabulary) + steering.source.vocabulary.encode(texts[0]).ids.tolist()]
        )

        @torch.no_grad()
        def source() -> None:
            for model in models.values():
                model(input_ids=own)

        @torch.no_grad()
        def score(policy: Policy) -> None:
            steering.policy = policy
            bridge(ids, use_cache=False)

        works: dict[str, Callable[[], object]] = {
            "base": torch.no_grad()(lambda: bridge.base(ids, use_cache=False)),
            "source": source,
        }
        for policy in POLICIES:
            works[policy.value] = lambda policy=policy: score(policy)
        seconds = medians(works)
        parts = seconds["base"] + seconds["source"]
        return [
            {
                "what": f"score, {policy.value}",
                "context": size,
                "batch": 1,
                "base_ms": 1000 * seconds["base"],
                "source_ms": 1000 * seconds["source"],
                "bridge_ms": 1000 * seconds[policy.value],
                "ratio": seconds[policy.value] / parts,
                "projection_share": None,
            }
            for policy in POLICIES
        ]

    loaded = held()
    ids, texts = context(bridge, arguments.context, 1)
    own = torch.tensor([steering.source.vocabulary.encode(texts[0]).ids.tolist()])
    peaks = {
        "base": held(lambda: generate(bridge, bridge.base, ids, TOKENS)),
        "source": held(lambda: alone(models, own, TOKENS)),
        "bridge": held(lambda: steered(Policy.LOOK_AHEAD, ids, TOKENS)),
    }
    for batch in arguments.batch:
        found += rows(arguments.context, batch, POLICIES)
    for size in arguments.growth:
        found += rows(size, 1, (Policy.LOOK_AHEAD,))
    found += scoring(arguments.context)
    table = Table("what", "context", "batch", "base ms", "source ms", "bridge ms", "over the sum", "projection")
    for row in found:
        share = "-" if row["projection_share"] is None else f"{100 * row['projection_share']:.1f}%"
        times = [f"{row[name]:.0f}" for name in ("base_ms", "source_ms", "bridge_ms")]
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
