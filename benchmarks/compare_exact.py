"""What the exact mode costs and how exact it is, on the packaged models.

    python benchmarks/compare_exact.py [--bytes 150] [--tolerance 1e-3 1e-6] [--tokens 8] [--output FILE]

Of each model: bits of a text by tokens and by bytes, at several tolerances; of a bridge onto Gemma-3 with the shipped
value network: seconds a byte, and forwards, of the exact mode, beside the projected bridge on the same prompt, which
ends inside of a word; and of SmolLM2 with this value network, which was trained on it, whether greedy decoding byte by
byte gives the text that adding logits token by token gives. It is not run by `make bench`.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vocabridge.batch import prompt_ids
from vocabridge.bridge import Bridge
from vocabridge.byte_model import ByteModel
from vocabridge.combination import Carry, Combination
from vocabridge.exact import ExactBridge, ExactSteering
from vocabridge.loading import build_bridge
from vocabridge.models import load_model
from vocabridge.policy import Policy
from vocabridge.projection import Projection
from vocabridge.score import own_bits
from vocabridge.steering import Steering
from vocabridge.streaming import stream
from vocabridge.value_network import load_value_source

TEXT = Path(__file__).parent.parent / "docs" / "training.md"
PROMPT = "Question: A baker sells 24 loaves a day. How many loaves does she sell in 7 days?\nAnswer: She se"
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
VALUE = str(files("vocabridge.data") / "value_network" / "gsm_symbolic-smollm2-135m")
PROMPTS = (
    "The capital of France is",
    "Water boils at",
    "def add(a, b):\n    return",
    "Question: Anna has 12 apples and eats 5. How many are left?\nAnswer:",
    "Question: A pack holds 6 pens. How many pens are in 7 packs?\nAnswer:",
    "Question: Tom runs 3 km a day for 5 days and then 10 km. How far does he run?\nAnswer:",
)


def bits(name: str, size: int, tolerances: list[float]) -> list[dict[str, Any]]:
    """Bits of a text, from a place on where a token begins behind a letter."""
    loaded = load_model(name, dtype=torch.float32)
    text = TEXT.read_text(encoding="utf-8")[2000 : 2000 + size]
    data, encoding = text.encode(), loaded.vocabulary.encode(text)
    starts = encoding.starts.tolist()
    first = next(
        i for i, at in enumerate(starts) if at > 40 and data[at - 1 : at].isalpha() and data[at : at + 1] == b" "
    )
    begin, end = starts[first], starts[-1]
    tokens = float(own_bits(loaded, encoding.ids.tolist())[first:-1].sum())
    rows = []
    for tolerance in tolerances:
        model = ByteModel.of(loaded, tolerance=tolerance)
        here, spent, lost = model.text([data[:begin]]), 0.0, []
        here.next()
        before, clock = model.forwards, perf_counter()
        for byte in data[begin:end]:
            found = here.next()
            spent -= float(np.log2(found.p[0, byte]))
            lost.append(found.lost)
            here = here.after(bytes([byte]))
        seconds, size = perf_counter() - clock, end - begin
        rows.append(
            {
                "model": name,
                "tolerance": tolerance,
                "bytes": size,
                "tokens": len(starts) - 1 - first,
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
    """An exact and a projected bridge on one prompt."""
    rows = []
    for exact in (False, True):
        bridge: Any = build_bridge(MODELS[1], VALUE, exact=exact)  # type: ignore[call-overload]
        if exact:
            bridge.limit(tolerance=tolerance)
        "".join(stream(bridge, PROMPT, max_new_tokens=1))  # what is cached at first use
        before, clock = bridge.forwards if exact else 0, perf_counter()
        writing = stream(bridge, PROMPT, max_new_tokens=tokens)
        text = "".join(writing)
        seconds, size = perf_counter() - clock, len(text.encode())
        row = {"bridge": "exact" if exact else "projected", "text": text, "s a byte": seconds / size}
        row |= {"s a token": seconds / writing.tokens}
        if exact:
            row |= {"forwards a byte, all models": (bridge.forwards - before) / size}
        rows.append(row)
    return rows


def same_tokenizer(tolerance: float, tokens: int) -> list[dict[str, Any]]:
    """Greedy texts of SmolLM2 with a value network trained on it, (1, 1, 1): logits added by tokens, and by bytes."""
    base, source = load_model(MODELS[0], dtype=torch.float32), load_value_source(VALUE, dtype=torch.float32)
    sum_of_logits = Combination(Carry.LINEAR)
    identity = Projection.identity(base.vocabulary.size)
    by_token = Bridge(base, [Steering(source, base.vocabulary, identity, sum_of_logits, policy=Policy.RETOKENIZE)])
    by_byte = ExactBridge(base, [ExactSteering(source, sum_of_logits)], tolerance=tolerance)
    rows = []
    for prompt in PROMPTS:
        texts = ["".join(stream(bridge, prompt, max_new_tokens=tokens)) for bridge in (by_token, by_byte)]
        size = min(map(len, texts))  # the one by bytes ends behind a word
        row = {"by tokens": texts[0], "by bytes": texts[1], "same": texts[0][:size] == texts[1][:size]}
        rows.append(row if row["same"] else row | parting(by_token, prompt, *(text.encode() for text in texts)))
    return rows


def parting(by_token: Bridge, prompt: str, one: bytes, other: bytes) -> dict[str, Any]:
    """Where two texts part: the likeliest token in front, and what the tokens there say of the byte: their sum."""
    vocabulary = by_token.vocabulary
    ids, done = prompt_ids(vocabulary, prompt), 0
    common = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)

    def following() -> np.ndarray:
        with torch.no_grad():
            return by_token(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].softmax(-1).numpy()

    def bytes_behind(p: np.ndarray, begun: bytes) -> np.ndarray:
        sums = np.zeros(256)
        for piece, mass in zip(vocabulary.token_bytes, p.tolist(), strict=True):
            if piece and piece.startswith(begun) and len(piece) > len(begun):
                sums[piece[len(begun)]] += mass
        return sums

    while True:
        p = following()
        token = int(p.argmax())
        data = vocabulary.token_bytes[token] or b""
        if done + len(data) >= common:  # what goes on behind it counts, too, if it ends there
            break
        ids, done = [*ids, token], done + len(data)
    sums = bytes_behind(p, one[done:common])
    if done + len(data) == common:
        ids = [*ids, token]
        sums += p[token] * bytes_behind(following(), b"")
    return {
        "behind": one[:done].decode(errors="replace"),
        "likeliest token": [data.decode(errors="replace"), float(p[token])],
        "likeliest byte there by tokens": chr(int(sums.argmax())),
        "byte by bytes": chr(other[common]),
    }


def main() -> None:
    """Measures, prints, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=150, help="of the text whose bits are counted")
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
        report("bits", bits(name, arguments.bytes, arguments.tolerance))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
