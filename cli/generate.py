"""`vocabridge generate`: a prompt to the bridged model's answer, as it comes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vocabridge.cli.options import AlignmentFile, Base, CombinationFile, Untuned, Value
from vocabridge.cli.output import Json, print_json, progress

EXAMPLES = """\b
Examples:
  vocabridge generate "Question: How much is 7 times 24? Answer:" --base gemma-3-270m --value my-values
  vocabridge generate "Once" --base gemma-3-270m --value my-values --combination report.json
  vocabridge generate "Once" --base ./big --value my-values --alignment pair.safetensors --strength 0.5
"""


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.", show_default=False)],
    base: Base,
    value: Value,
    untuned: Untuned = None,
    alignment: AlignmentFile = None,
    combination: CombinationFile = None,
    strength: Annotated[float, typer.Option(help="Alpha: 0 is the base alone.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Stop after so many tokens.")] = 256,
    json: Json = False,
) -> None:
    """Continue a text with the bridged model.

    The value network steers the base model; the likeliest text appears as it is produced.
    """
    from vocabridge.loading import build_bridge
    from vocabridge.streaming import stream

    with progress(f"loading {base}"):
        bridge = build_bridge(
            base, value, untuned=untuned, alignment=alignment, combination=combination, strength=strength
        )
    pieces = []
    for piece in stream(bridge, prompt, max_new_tokens):
        pieces.append(piece)
        if not json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if json:
        models = {"base": base, "value": value, "untuned": untuned}
        weights = {"strength": strength, "combination": bridge.steering.combination.as_dict()}
        print_json({"prompt": prompt, "text": "".join(pieces)} | models | weights)
    else:
        sys.stdout.write("\n")
