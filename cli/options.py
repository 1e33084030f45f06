"""Options that several commands have, and checks of what is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[str, typer.Option(help="The base model: packaged, hub id, folder or .gguf file.")]

Value = Annotated[str, typer.Option(help="The value network's folder; with --untuned, the tuned small model by name.")]

Untuned = Annotated[
    str | None,
    typer.Option(help="The small model before tuning: what tuning changed in it steers the base."),
]

AlignmentFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="An alignment of the two. Without it: from the cache, or built."),
]

CombinationFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Fitted weights: a report that `eval -o` wrote."),
]


def in_existing_folder(path: Path | None) -> Path | None:
    """Refuse a file to write whose folder is not there, before any work is done."""
    if path is not None and not path.resolve().parent.is_dir():
        raise typer.BadParameter(f"There is no folder '{path.resolve().parent}'; make it first.")
    return path
