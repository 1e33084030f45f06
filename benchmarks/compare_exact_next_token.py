"""How far every approximation is from the exact distribution of the next target token, on the packaged models.

    python benchmarks/compare_exact_next_token.py [--sources NAME ...] [--value FOLDER] [--text KIND | FILE.jsonl]
                                                  [--positions N] [--methods NAME ...] [--policies NAME ...]
                                                  [--tolerance X] [--rounds N] [--output FILE]

SmolLM2 and Gemma-3, each as the source of the other, which is asked as the base of the informed method. The text is one
of those of `bench_score.py`, or the prompts and responses of a file with examples. For each builder, policy and method:
KL(truth || projected) in bits, total variation, and how often the most likely token is the same; then the first of
these by class of target token and by how the tokens of both lie. With --value the change of this value network of the
(one) source is compared, by every method. It is not run by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter

from bench_score import CHAINS, MODELS, TEXTS, build, part_of_corpus, sample
from rich.console import Console
from rich.table import Table

from vocabridge.alignment import METHODS, Corpus
from vocabridge.decoding.record_distributions import predict
from vocabridge.diagnostics.approximation_error import ApproximationErrors, distances
from vocabridge.diagnostics.exact_next_token import ROUNDS, TOLERANCE
from vocabridge.models.examples import load_examples
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_network
from vocabridge.options import BoundaryPolicy

BYTES = 12_000
"""Of a text, over which the positions are spread."""


def text_of(name: str, folder: Path) -> Corpus:
    """One of the texts by name, or the examples of a file."""
    if name in TEXTS:
        return sample(name, BYTES, folder)
    path = folder / "examples.txt"
    examples = [f"{example.prompt}{example.response}\n\n" for example in load_examples(Path(name), 100)]
    path.write_text("".join(examples)[:BYTES], encoding="utf-8")
    return Corpus.open([path])


def main() -> None:
    """Compare, and print a table for each direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--value", type=Path, help="a value network of the source")
    parser.add_argument("--text", default="prose")
    parser.add_argument("--positions", type=int, default=150)
    parser.add_argument("--methods", nargs="+", default=["default"], help="builders; `all` for every one")
    parser.add_argument("--policies", nargs="+", type=BoundaryPolicy, default=list(BoundaryPolicy))
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    if arguments.value is not None and len(arguments.sources) > 1:
        parser.error("--value is of one source; name it with --sources")
    models = {name: load_model(short) for name, short in MODELS.items()}
    methods = {"default": ["default"], "all": [*METHODS, *CHAINS, "cooccurrence,embedding"]}
    chosen = [one for name in arguments.methods for one in methods.get(name, [name])]
    document = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text = text_of(arguments.text, folder)
        (folder / "part").mkdir()
        part = part_of_corpus(folder / "part")
        for source in arguments.sources:
            target = next(name for name in MODELS if name != source)
            model, base = models[source], models[target]
            said = predict(model, part, k=32) if "expected" in chosen else None
            alignments = {method: build(method, model, base.vocabulary, base, said) for method in chosen}
            begin = perf_counter()
            found = distances(
                model if arguments.value is None else load_value_network(arguments.value),
                base.vocabulary,
                alignments,
                text,
                base=base,
                positions=arguments.positions,
                policies=arguments.policies,
                tolerance=arguments.tolerance,
                rounds=arguments.rounds,
            )
            print_distances(f"{source} -> {target}, {arguments.text}", found, perf_counter() - begin)
            document.append(
                {"source": source, "target": target, "text": arguments.text, "tolerance": arguments.tolerance}
                | {"distances": {method: one.as_dict() for method, one in found.items()}}
            )
            if arguments.output:
                arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def print_distances(pair: str, found: dict[str, ApproximationErrors], seconds: float) -> None:
    """Three tables of one direction."""
    some = next(iter(found.values()))
    rows = [(method, one) for method, several in found.items() for one in several.approximations]
    title = (
        f"{pair}: {some.positions} positions ({some.impossible} more are impossible), open {some.open:.2%}, "
        f"lost {some.lost:.2%} ({seconds:.0f} s)"
    )
    table = Table("builder", "method", "policy", "KL, bits", "variation", "same most likely", "inactive", title=title)
    for method, one in rows:
        apart = one.overall
        figures = (f"{apart.mean_kl:.3f}", f"{apart.mean_variation:.3f}", f"{apart.agreement:.1%}", str(one.inactive))
        table.add_row(method, one.method.value, one.policy.value, *figures)
    Console(width=120).print(table)
    by_class = {c.label: [one.by_class[c] for _, one in rows] for c in rows[0][1].classes}
    by_relation = {r.value: [one.by_relation[r] for _, one in rows] for r in rows[0][1].relations}
    for parts in (by_class, by_relation):
        sizes = [f"{name} ({part[0].positions})" for name, part in parts.items()]
        table = Table("builder", "method", "policy", *sizes, title="KL in bits")
        for number, (method, one) in enumerate(rows):
            figures = [f"{part[number].mean_kl:.3f}" for part in parts.values()]
            table.add_row(method, one.method.value, one.policy.value, *figures)
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
