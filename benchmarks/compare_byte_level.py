"""What the byte-level mode costs and how exact it is, on the packaged models.

    python benchmarks/compare_byte_level.py [--bytes 150] [--tolerance 1e-3 1e-6] [--tokens 8] [--output FILE]

Of each model: bits of three texts by tokens and by bytes, at several tolerances; of a bridge onto Gemma-3 with the
shipped value network: seconds a byte, and forwards, of the byte-level mode, beside the projected bridge on the same
prompt, which ends inside of a word; and of SmolLM2 with this value network, which was trained on it, whether greedy
decoding in the byte-level mode gives the text that adding logits token by token gives. It is not run by `make bench`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vocabridge.alignment import Vocabulary
from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.bridge.streaming import stream
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.data import task_file, value_network_folder
from vocabridge.diagnostics.alignment_score import own_bits
from vocabridge.models.examples import load_examples
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_source
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection

ROOT = Path(__file__).parent.parent
PROMPT = "Question: A baker sells 24 loaves a day. How many loaves does she sell in 7 days?\nAnswer: She se"
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
VALUE = str(value_network_folder())
PROMPTS = (
    "The capital of France is",
    "Water boils at",
    "def add(a, b):\n    return",
    "Question: Anna has 12 apples and eats 5. How many are left?\nAnswer:",
    "Question: A pack holds 6 pens. How many pens are in 7 packs?\nAnswer:",
    "Question: Tom runs 3 km a day for 5 days and then 10 km. How far does he run?\nAnswer:",
    "Question: A farmer has 3 fields with 15 cows each. How many cows are there?\nAnswer:",
    "Question: Eva reads 20 pages a day. How many pages does she read in 9 days?\nAnswer:",
    "Q: What is 12 * 12?\nA:",
    "My favourite season is",
    "The quick brown fox",
    "Once upon a time",
    "She opened the door and saw",
    "To be, or not to be,",
    "The three primary colours are",
    "Dear Sir,\n\nI am writing to",
    "Die Hauptstadt von Deutschland ist",
    "SELECT name FROM users WHERE",
    "import numpy as np\n\ndef mean(x):\n    ",
    "for i in range(10):\n",
)


def passages(size: int) -> dict[str, str]:
    """Return a piece of this project's documentation, of its code, and of the problems that it ships."""
    prose = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    code = (ROOT / "vocabridge" / "tree.py").read_text(encoding="utf-8")
    sums = load_examples(task_file("test"), 1)[0]
    several = {"prose": prose[2000:], "code": code[code.index("class") :], "sums": sums.prompt + sums.response}
    return {kind: text[:size] for kind, text in several.items()}


def beginning(vocabulary: Vocabulary) -> list[int]:
    """Return what a text has to begin with to stand after the bos token: nothing, where that is added by itself."""
    return [] if vocabulary.bos_ids else [vocabulary.roles["bos"]]


def bits(name: str, kind: str, text: str, tolerances: list[float]) -> list[dict[str, Any]]:
    """Bits of a text after the bos token, but for its last token: what ends there may go on."""
    loaded = load_model(name, dtype=torch.float32)
    encoding, added = loaded.vocabulary.encode(text), beginning(loaded.vocabulary)
    tokens = float(own_bits(loaded, added + encoding.ids.tolist())[len(added) : -1].sum())
    data = text.encode()[: int(encoding.starts[-1])]
    rows = []
    for tolerance in tolerances:
        model = ByteLM.of(loaded, tolerance=tolerance)
        here, spent, lost = model.text(added), 0.0, []
        here.next()
        before, clock = model.forwards, perf_counter()
        for byte in data:
            found = here.next()
            spent -= float(np.log2(found.p[0, byte]))
            lost.append(found.lost)
            here = here.after(bytes([byte]))
        seconds, size = perf_counter() - clock, len(data)
        rows.append(
            {
                "model": name,
                "text": kind,
                "tolerance": tolerance,
                "bytes": size,
                "tokens": len(encoding.ids) - 1,
                "bits by tokens": tokens,
                "bits by bytes": spent,
                "difference, %": 100 * (spent / tokens - 1),
                "most lost": max(lost),
                "forwards a byte": (model.forwards - before) / size,
                "s a byte": seconds / size,
            }
        )
    return rows


def cost(tolerance: float, tokens: int) -> list[dict[str, Any]]:
    """Return an exact and a projected bridge on one prompt."""
    rows = []
    for exact in (False, True):
        bridge: Any = build_bridge(MODELS[1], VALUE, byte_level=exact)  # type: ignore[call-overload]
        if exact:
            bridge.set_tolerance(tolerance)
        "".join(stream(bridge, PROMPT, max_new_tokens=1))  # what is cached at first use
        before, clock = bridge.forwards if exact else 0, perf_counter()
        writing = stream(bridge, PROMPT, max_new_tokens=tokens)
        text = "".join(writing)
        seconds, size = perf_counter() - clock, len(text.encode())
        row = {"bridge": "byte-level" if exact else "projected", "text": text, "s a byte": seconds / size}
        row |= {"s a token": seconds / writing.tokens}
        if exact:
            row |= {"forwards a byte, all models": (bridge.forwards - before) / size}
        rows.append(row)
    return rows


def same_tokenizer(tolerance: float, tokens: int) -> list[dict[str, Any]]:
    """Greedy texts of SmolLM2 with a value network trained on it, (1, 1, 1): logits added by tokens, and by bytes."""
    base, source = load_model(MODELS[0], dtype=torch.float32), load_value_source(VALUE, dtype=torch.float32)
    sum_of_logits = Combination(ProjectionMethod.LINEAR)
    identity = Projection.identity(base.vocabulary.size)
    by_token = Bridge(base, [Steering(source, base.vocabulary, identity, sum_of_logits, policy=BoundaryPolicy.AS_IS)])
    by_byte = ByteLevelBridge(base, [ByteLevelSteering(source, sum_of_logits)], tolerance=tolerance)
    rows = []
    for prompt in PROMPTS:
        texts = ["".join(stream(bridge, prompt, max_new_tokens=tokens)) for bridge in (by_token, by_byte)]
        rows.append({"by tokens": texts[0], "by bytes": texts[1], "same": texts[0] == texts[1]})
    return rows


def main() -> None:
    """Measures, prints, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=150, help="of each text whose bits are counted")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[1e-3, 1e-6])
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    loosest = max(arguments.tolerance)
    results: dict[str, list[dict[str, Any]]] = {}

    def report(title: str, rows: list[dict[str, Any]]) -> None:
        results.setdefault(title, []).extend(rows)
        Console().print(title, *(json.dumps(row, ensure_ascii=False) for row in rows), sep="\n  ", highlight=False)

    report("cost", cost(loosest, arguments.tokens))
    report("same tokenizer", same_tokenizer(loosest, arguments.tokens))
    for name in MODELS if arguments.bytes else ():
        for kind, text in passages(arguments.bytes).items():
            report("bits", bits(name, kind, text, arguments.tolerance))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
