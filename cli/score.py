"""`vocabridge score`: what a source model's own predictions cost after crossing an alignment."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from vocabridge.cli._options import number
from vocabridge.cli._output import Json, count, print_json, print_table, progress
from vocabridge.utils.ranges import COUNT

if TYPE_CHECKING:
    from vocabridge.diagnostics.alignment_score import Cost

EXAMPLES = """\b
Examples:
  vocabridge score pair.safetensors --model smollm2-135m-instruct --text unseen.txt
  vocabridge score pair.safetensors --model smollm2-135m-instruct --text prose/ --text code/ --json
  vocabridge score pair.safetensors --model smollm2-135m-instruct --text unseen.txt --against-exact --base gemma-3-270m
  vocabridge score pair.safetensors --model my-values --text unseen.txt --against-exact --base gemma-3-270m
      --positions 50
"""


def score(  # Long because each option is a parameter, with its help
    file: Annotated[
        Path,
        typer.Argument(metavar="ALIGNMENT", exists=True, dir_okay=False, help="An alignment.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="The source model: packaged, hub id, folder or .gguf file; with --against-exact also a value network."
        ),
    ],
    text: Annotated[
        list[Path],
        typer.Option(
            exists=True, metavar="PATH", help="UTF-8 text file or folder that no alignment has seen; may be repeated."
        ),
    ],
    target: Annotated[
        str | None, typer.Option(help="The base model's tokenizer. Without it: where the alignment found it.")
    ] = None,
    against_exact: Annotated[
        bool,
        typer.Option(
            "--against-exact", help="Compare with the model's exact distribution of the next target token instead."
        ),
    ] = False,
    positions: Annotated[
        int | None,
        number(COUNT, "With --against-exact: at so many of the text's tokens, spread evenly; 200 if not set."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="With --against-exact: the base model that the informed method asks; without one, only the static."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Score an alignment by one honest number.

    Bits per byte of a text when the source model predicts it in its own tokens, and when its predictions are
    projected to the other vocabulary; for every policy of what it says where its own tokens may not end, by class
    of token, and by how the tokens of both lie. The text should be one that the alignment was not counted on.

    With --against-exact: how far each policy and method is from the truth, KL in bits, total variation and whether the
    likeliest token is the same; of a value network, how far the base with its change is, by every method. A position
    takes some seconds.
    """
    from vocabridge.alignment.errors import Effect, refuse_idle

    for name, given in (("positions", positions), ("base", base)):
        refuse_idle(
            Effect(name, given is not None, against_exact, "only --against-exact has this; add it, or leave this out")
        )
    from vocabridge.alignment import Alignment, Corpus
    from vocabridge.cli._vocabularies import remembered
    from vocabridge.diagnostics.alignment_score import score as measure
    from vocabridge.models.loading import check_model, load_model
    from vocabridge.options import BoundaryPolicy

    begin = perf_counter()
    alignment, corpus = Alignment.load(file), Corpus.open(text)
    if against_exact:
        from vocabridge.cli._distances import compare

        compare(file, alignment, corpus, model=model, target=target, base=base, positions=positions or 200, json=json)
        return
    with progress(f"scoring {file} with {model}") as tell:
        check_model(model)
        vocabulary = remembered("target", target, alignment.target)
        alignment.fitted(target=vocabulary)  # or an error, before a model is loaded
        found = measure(load_model(model), vocabulary, {"": alignment}, corpus, progress=tell)[""]
    seconds = perf_counter() - begin
    if json:
        print_json({"file": file, "bytes": corpus.bytes} | found.as_dict() | {"seconds": seconds})
        return
    print_table(
        f"{found.model} -> {found.target} by {found.method}: {count(found.positions)} target tokens, "
        f"{found.common_share:.1%} of them at common boundaries",
        ("policy", "own tokens, bits/byte", "projected, bits/byte", "loss", "inactive at"),
        [
            (policy.value, *_figures(projected.overall), f"{projected.inactive / found.positions:.1%}")
            for policy, projected in found.policies.items()
        ],
    )
    policies = list(BoundaryPolicy)
    print_table(
        "loss by class of target token",
        ("class", "tokens", "own tokens, bits", *(policy.value for policy in policies)),
        _losses({one.label: [p.by_class[one] for p in found.policies.values()] for one in found.classes}),
    )
    print_table(
        "loss by how the tokens lie",
        ("", "tokens", "own tokens, bits", *(policy.value for policy in policies)),
        _losses({one.value: [p.by_relation[one] for p in found.policies.values()] for one in found.relations}),
    )


def _figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.native_bits_per_byte:.3f}", f"{cost.bits_per_byte:.3f}", f"{cost.loss:+.1%}"


def _losses(rows: dict[str, list[Cost]]) -> list[tuple[str, ...]]:
    """One row a class: its size, its own cost, and by how many bits each policy is worse."""
    return [
        (name, count(costs[0].tokens), f"{costs[0].native:,.0f}", *(f"{c.projected - c.native:+,.0f}" for c in costs))
        for name, costs in rows.items()
    ]
