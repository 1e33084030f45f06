"""What the end of a response costs across tokenizers: bits at its last token, at its end token and before them.

    python benchmarks/compare_ends.py --base gemma-3-270m --value my-values --data test.jsonl [--untuned NAME]
                                      [--policy NAME] [--weights BASE TUNED UNTUNED] [--limit N] [--write N]
                                      [--json FILE]

Responses are read with the end token after them, teacher-forced, in the base's tokens: by the base, by the projected
donor (0, 1, 0) with each method of distributions, and by the bridge with the weights that are given; and by
the donor in its own tokens. With --write so many prompts are continued, and it is counted how many responses end as
the item's does: with the same white space. It is not run by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from vocabridge.alignment import Vocabulary
from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.streaming import stream
from vocabridge.evaluation.scoring import evaluated_donor, evaluated_model
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.examples import Example, load_examples, tokenize
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination

Figures = dict[str, float]


@torch.no_grad()
def bits(example: Example, vocabulary: Vocabulary, end: int, logits: Callable[[Tensor, int], Tensor]) -> Figures:
    """Bits of a response: of all tokens but the last, of the last, and of the end token after it."""
    tokens = tokenize(example, vocabulary)
    ids = torch.tensor([[*tokens.ids, end]])
    truth = ids[0, tokens.first :]
    nats = torch.nn.functional.cross_entropy(logits(ids[:, :-1], len(truth)).float(), truth, reduction="none")
    found = (nats / math.log(2)).tolist()
    return {"before": sum(found[:-2]), "last": found[-2], "end": found[-1]}


def white_space(text: str) -> str:
    """Return the white space at the end of a text."""
    return text[len(text.rstrip()) :]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "value", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--untuned", help="with it, the value is the tuned model of a pair")
    parser.add_argument("--policy", type=BoundaryPolicy, default=BoundaryPolicy.LOOKAHEAD)
    parser.add_argument("--weights", nargs=3, type=float, default=(0.45, 0.75, 0.1))
    parser.add_argument("--limit", type=int, help="take the first so many items")
    parser.add_argument("--write", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here, too, item by item")
    arguments = parser.parse_args()
    bridge = build_bridge(arguments.base, arguments.value, untuned=arguments.untuned)
    steering, source = bridge.steering, bridge.steering.source
    examples = load_examples(Path(arguments.data), arguments.limit)
    base, donor = evaluated_model("base", bridge.base, bridge.vocabulary), evaluated_donor("donor", source)
    ways = {
        f"projected donor, {method.value}": Combination(method, 0.0, 1.0, 0.0)
        for method in (ProjectionMethod.INFORMED, ProjectionMethod.STATIC)
    }
    ways["bridge"] = Combination(ProjectionMethod.INFORMED, *arguments.weights)
    steering.policy = arguments.policy

    def bridged(ids: Tensor, keep: int) -> Tensor:
        return bridge(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]

    rows: dict[str, list[Figures]] = {}
    for example in track(examples, "reading"):
        ends = {name: end_tokens(one.vocabulary)[0] for name, one in (("base", base), ("donor", donor))}
        rows.setdefault("base", []).append(bits(example, base.vocabulary, ends["base"], base.logits))
        rows.setdefault("donor", []).append(bits(example, donor.vocabulary, ends["donor"], donor.logits))
        for name, steering.combination in ways.items():
            rows.setdefault(name, []).append(bits(example, base.vocabulary, ends["base"], bridged))
    table = Table("", "before", "last token", "end token", "bits, all", title=f"{len(examples)} items, bits an item")
    for name, several in rows.items():
        means = [sum(one[part] for one in several) / len(several) for part in ("before", "last", "end")]
        table.add_row(name, *(f"{mean:.3f}" for mean in means), f"{sum(means) * len(several):.1f}")
    Console(width=110).print(table)
    if arguments.write:
        steering.combination = ways["bridge"]
        written = [
            "".join(stream(bridge, example.prompt, max_new_tokens=96))
            for example in track(examples[: arguments.write], "writing")
        ]
        alike = [white_space(text) == white_space(one.response) for text, one in zip(written, examples, strict=False)]
        Console().print(f"the white space at the end is the item's in {sum(alike)} of {len(alike)} written responses")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
