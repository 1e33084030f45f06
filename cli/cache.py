"""`vocabridge cache`: list, verify and prune the cached alignments."""

from __future__ import annotations

from typing import Annotated

import typer

from vocabridge.cli._output import Json, print_facts, print_json, print_table, size

app = typer.Typer(
    name="cache",
    help="List, verify and prune the cached alignments.",
    epilog="The cache is the folder in VOCABRIDGE_CACHE, or by default in the platform's folder for caches.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(name="list", epilog="\b\nExamples:\n  vocabridge cache list\n  vocabridge cache list --json\n")
def list_entries(json: Json = False) -> None:
    """List the cached alignments."""
    _show(json)


@app.command(epilog="\b\nExamples:\n  vocabridge cache verify\n")
def verify(json: Json = False) -> None:
    """Check every entry; the exit status is 1 if one is damaged."""
    if not _show(json):
        raise typer.Exit(1)


@app.command(epilog="\b\nExamples:\n  vocabridge cache prune\n  vocabridge cache prune --all\n")
def prune(
    everything: Annotated[bool, typer.Option("--all", help="Remove every entry, not only the damaged ones.")] = False,
    json: Json = False,
) -> None:
    """Remove damaged entries and the leftovers of killed builds."""
    from vocabridge.alignment.cache import Prune
    from vocabridge.alignment.cache import prune as remove

    removed = remove(Prune.ALL if everything else Prune.DAMAGED)
    if json:
        print_json({"removed": removed})
    else:
        print_facts("removed from the cache", {str(path): "" for path in removed} or {"nothing": ""})


def _show(json: bool) -> bool:
    """Print the entries, and return whether all are sound."""
    from vocabridge.alignment import cache_folder
    from vocabridge.alignment.cache import entries
    from vocabridge.cli._provenance import as_document

    cached = entries()
    if json:
        documents = [
            {"path": entry.path, "bytes": entry.bytes, "problem": entry.problem}
            | {"alignment": None if entry.alignment is None else as_document(entry.alignment)}
            for entry in cached
        ]
        print_json({"folder": cache_folder(), "entries": documents})
    elif not cached:
        typer.echo(f"The cache in {cache_folder()} is empty.")
    else:
        rows = []
        for entry in cached:
            alignment = entry.alignment
            pair = entry.problem if alignment is None else f"{alignment.source.name} -> {alignment.target.name}"
            method = "damaged" if alignment is None else alignment.method
            rows.append((pair or "", method, size(entry.bytes), entry.path.stem[:12]))
        print_table(str(cache_folder()), ("alignment", "method", "size", "key"), rows)
    return all(entry.problem is None for entry in cached)
