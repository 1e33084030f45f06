"""`vocabridge predict`: what a source model says along a text, for `align --method expected`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._options import CorpusPaths, number, output_file
from vocabridge.cli._output import Json, print_facts, print_json, progress
from vocabridge.utils.ranges import COUNT

EXAMPLES = """\b
Examples:
  vocabridge predict smollm2-135m-instruct -o said.safetensors
  vocabridge predict smollm2-135m-instruct --corpus mytexts/ --top 32 -o said.safetensors
  vocabridge align smollm2-135m-instruct gemma-3-270m --method expected --distributions said.safetensors
"""


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The source model.", show_default=False)],
    output: Annotated[Path, output_file("Write to this file.")],
    corpus: CorpusPaths = None,
    top: Annotated[int, number(COUNT, "Keep so many tokens at a position.")] = 64,
    json: Json = False,
) -> None:
    """Write down what a source model says along a text.

    At every token of the text, the model's most likely next tokens. `align --method expected` fits its counts to
    them. Text that ships here is read unless there is --corpus.
    """
    from vocabridge.alignment import Corpus
    from vocabridge.data import corpus_files
    from vocabridge.decoding.record_distributions import predict as read
    from vocabridge.models.loading import load_model

    text = Corpus.open(corpus or corpus_files())
    with progress(f"reading with {model}") as tell:
        said = read(load_model(model), text, k=top, progress=tell)
    said.save(output)
    facts = {"model": model, "bytes": text.bytes, "positions": len(said.offsets), "saved to": output}
    if json:
        print_json(facts)
    else:
        print_facts(f"what {model} says", facts)
