"""Checks that several commands make of their options."""

from __future__ import annotations

from pathlib import Path

import typer


def in_existing_folder(path: Path | None) -> Path | None:
    """Refuse a file to write whose folder is not there, before any work is done."""
    if path is not None and not path.resolve().parent.is_dir():
        raise typer.BadParameter(f"There is no folder '{path.resolve().parent}'; make it first.")
    return path
