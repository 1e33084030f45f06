"""`vocabridge generate`: a prompt to the bridged model's answer, as it comes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from vocabridge.cli.output import Json, print_json, progress

EXAMPLES = """\b
Examples:
  vocabridge generate "Question: ...\\nAnswer:" --base gemma-3-270m --value my-values
  vocabridge generate "Once" --base ./big --value my-values --alignment pair.safetensors --strength 0.5
"""


def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The text to continue.", show_default=False)
    ],
    base: Annotated[str, typer.Option(help="The base model: packaged, hub id, folder or .gguf file.")],
    value: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The value network's folder.")],
    alignment: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="An alignment of the two. Without it: from the cache, or built."
        ),
    ] = None,
    combination: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Fitted weights of the models, a JSON file."),
    ] = None,
    strength: Annotated[float, typer.Option(help="Alpha: 0 is the base alone.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Stop after so many tokens.")] = 256,
    json: Json = False,
) -> None:
    """Continue a text with the bridged model.

    The value network steers the base model; text appears as it is produced.
    """
    from vocabridge.loading import build_bridge

    with progress(f"loading {base}"):
        bridge = build_bridge(
            base, str(value), alignment=alignment, combination=combination, strength=strength
        )
    pieces = []
    for piece in bridge.stream(prompt, max_new_tokens=max_new_tokens):
        pieces.append(piece)
        if not json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if json:
        print_json(
            {"prompt": prompt, "text": "".join(pieces), "base": base, "value": value, "strength": strength}
        )
    else:
        sys.stdout.write("\n")
