"""`vocabridge predict`: record a source model's predictions along a text, for `align --method expected`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._options import CorpusPaths, number, output_file
from vocabridge.cli._output import Json, print_facts, print_json, progress
from vocabridge.utils.ranges import COUNT

EXAMPLES = """\b
Examples:
  vocabridge predict smollm2-135m-instruct -o predictions.safetensors
  vocabridge predict smollm2-135m-instruct --corpus mytexts/ --top 32 -o predictions.safetensors
  vocabridge align smollm2-135m-instruct gemma-3-270m --method expected --distributions predictions.safetensors
"""


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The source model.", show_default=False)],
    output: Annotated[Path, output_file("Write to this file.")],
    corpus: CorpusPaths = None,
    top: Annotated[int, number(COUNT, "Number of most likely tokens to keep at each position.")] = 64,
    json: Json = False,
) -> None:
    """Record a source model's predictions along a text.

    For every token of the text, the file holds the model's most likely next tokens. `align --method expected` fits its
    counts to them. Without --corpus, the text is the packaged corpus.
    """
    from vocabridge.alignment import Corpus
    from vocabridge.data import corpus_files
    from vocabridge.decoding.record_distributions import predict as record
    from vocabridge.models.loading import load_model

    text = Corpus.open(corpus or corpus_files())
    with progress(f"predicting with {model}") as update:
        predictions = record(load_model(model), text, k=top, progress=update)
    predictions.save(output)
    facts = {"model": model, "bytes": text.bytes, "positions": len(predictions.offsets), "saved to": output}
    if json:
        print_json(facts)
    else:
        print_facts(f"predictions of {model}", facts)
