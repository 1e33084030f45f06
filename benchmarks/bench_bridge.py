"""Time greedy generation of the bridge beside its base model, with the peak memory.

    python benchmarks/bench_bridge.py [--batch N] [--tokens N] [--json]

Both generate the same number of tokens from the same prompts in one process, in turn; the figure is the ratio of
the medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig

from vocabridge.combination import Carry, Combination
from vocabridge.data import task_file, value_network_folder
from vocabridge.examples import load_examples
from vocabridge.loading import build_bridge
from vocabridge.reader import begin_tokens

ROUNDS = 5


def median_seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each piece of work, all done in turn after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            begin = perf_counter()
            work()
            if number:
                seconds[name].append(perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    bridge = build_bridge("gemma-3-270m", str(value_network_folder()))
    prompt = (
        begin_tokens(bridge.vocabulary)
        + bridge.vocabulary.encode(load_examples(task_file("test"), 1)[0].prompt).ids.tolist()
    )
    ids = torch.tensor([prompt] * arguments.batch)
    config = GenerationConfig(max_new_tokens=arguments.tokens, do_sample=False, eos_token_id=None, pad_token_id=0)

    def generate(combination: Combination, strength: float) -> None:
        bridge.combination, bridge.strength = combination, strength
        bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)

    works: dict[str, Callable[[], object]] = {"base": lambda: generate(Combination(), 0.0)}
    for carry in Carry:
        works[carry.value] = lambda carry=carry: generate(Combination(carry), 1.0)
    seconds = median_seconds(works)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    rows = [
        {
            "what": name,
            "milliseconds_per_token": 1000 * value / arguments.tokens,
            "ratio_to_base": value / seconds["base"],
        }
        for name, value in seconds.items()
    ]
    if arguments.json:
        print(json.dumps({"batch": arguments.batch, "peak_megabytes": peak, "rows": rows}, indent=2))
        return
    table = Table("carry", "ms a step", "ratio to base", title=f"batch {arguments.batch}, peak {peak:.0f} MB")
    for row in rows:
        table.add_row(row["what"], f"{row['milliseconds_per_token']:.0f}", f"{row['ratio_to_base']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
