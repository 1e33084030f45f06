"""`vocabridge score`: measure how many bits a source model's predictions lose when an alignment projects them."""

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
            help="The source model: a packaged model, hub id, folder or .gguf file; with --against-exact also a value "
            "network."
        ),
    ],
    text: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            metavar="PATH",
            help="UTF-8 text file or folder on which the alignment was not counted; may be repeated.",
        ),
    ],
    target: Annotated[
        str | None, typer.Option(help="The base model's tokenizer. By default the one that the alignment records.")
    ] = None,
    against_exact: Annotated[
        bool,
        typer.Option(
            "--against-exact", help="Compare with the model's exact distribution of the next target token instead."
        ),
    ] = False,
    positions: Annotated[
        int | None,
        number(COUNT, "With --against-exact: number of positions of the text, spread evenly; by default 200."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="With --against-exact: the base model, which the method informed needs. By default only static is "
            "compared."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Score an alignment by the bits that it costs.

    Compares the bits per byte of a text when the source model predicts it in its own tokens with those after projection
    to the target vocabulary: for every boundary policy, by class of token, and by the span relation of the tokens. The
    text should be one on which the alignment was not counted.

    With --against-exact, compares every policy and projection method with the exact distribution: KL divergence in
    bits, total variation, and how often the most likely token is the same. For a value network, the base steered by it
    is compared. A position takes some seconds.
    """
    from vocabridge.alignment.errors import Effect, refuse_idle

    for name, given in (("positions", positions), ("base", base)):
        refuse_idle(
            Effect(name, given is not None, against_exact, "only --against-exact uses it; add that, or leave this out")
        )
    from vocabridge.alignment import Alignment, Corpus
    from vocabridge.cli._vocabularies import recorded_vocabulary
    from vocabridge.diagnostics.alignment_score import score as measure
    from vocabridge.models.loading import check_model, load_model
    from vocabridge.options import BoundaryPolicy

    begin = perf_counter()
    alignment, corpus = Alignment.load(file), Corpus.open(text)
    if against_exact:
        from vocabridge.cli._distances import compare

        compare(file, alignment, corpus, model=model, target=target, base=base, positions=positions or 200, json=json)
        return
    with progress(f"scoring {file} with {model}") as update:
        check_model(model)
        vocabulary = recorded_vocabulary("target", target, alignment.target)
        alignment.fitted(target=vocabulary)  # raises an error before a model is loaded
        result = measure(load_model(model), vocabulary, {"": alignment}, corpus, progress=update)[""]
    seconds = perf_counter() - begin
    if json:
        print_json({"file": file, "bytes": corpus.bytes} | result.as_dict() | {"seconds": seconds})
        return
    print_table(
        f"{result.model} -> {result.target} by {result.method}: {count(result.positions)} target tokens, "
        f"{result.common_share:.1%} of them at common boundaries",
        ("policy", "own tokens, bits/byte", "projected, bits/byte", "loss", "inactive at"),
        [
            (policy.value, *_figures(projected.overall), f"{projected.inactive / result.positions:.1%}")
            for policy, projected in result.policies.items()
        ],
    )
    policies = list(BoundaryPolicy)
    print_table(
        "loss by class of target token",
        ("class", "tokens", "own tokens, bits", *(policy.value for policy in policies)),
        _losses({one.label: [p.by_class[one] for p in result.policies.values()] for one in result.classes}),
    )
    print_table(
        "loss by span relation",
        ("", "tokens", "own tokens, bits", *(policy.value for policy in policies)),
        _losses({one.value: [p.by_relation[one] for p in result.policies.values()] for one in result.relations}),
    )


def _figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.native_bits_per_byte:.3f}", f"{cost.bits_per_byte:.3f}", f"{cost.loss:+.1%}"


def _losses(rows: dict[str, list[Cost]]) -> list[tuple[str, ...]]:
    """Return a row for each class: its tokens, its bits in own tokens, and the loss of each policy in bits."""
    return [
        (name, count(costs[0].tokens), f"{costs[0].native:,.0f}", *(f"{c.projected - c.native:+,.0f}" for c in costs))
        for name, costs in rows.items()
    ]
