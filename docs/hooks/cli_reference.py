"""Write the command line's reference page from the typer application, when mkdocs builds the site.

The page `reference/cli.md` has a line `<!-- commands -->`; every command's usage, help, arguments, options and examples
go in its place.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator
from typing import Any

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the commands; mkdocs calls it for every page."""
    if MARK not in markdown:
        return markdown
    import typer

    from vocabridge.cli import _app

    return markdown.replace(MARK, "\n".join(describe(typer.main.get_command(_app.app), "vocabridge")))


def describe(command: Any, path: str, parent: Any = None) -> Iterator[str]:
    """Give the Markdown lines of a command, or of a group and its commands."""
    context = type(command).context_class(command, info_name=path.rpartition(" ")[2], parent=parent)
    commands = getattr(command, "commands", None)
    if parent is not None:
        yield f"{'#' * (path.count(' ') + 1)} `{path}`\n"
        yield f"{paragraphs(command.help)}\n"
    if commands is None:
        yield f"```text\n{' '.join(command.get_usage(context).removeprefix('Usage: ').split())}\n```\n"
        yield from parameters(command, context)
        if command.epilog:
            yield f"```text\n{examples(command.epilog)}\n```\n"
    for name, child in (commands or {}).items():
        yield from describe(child, f"{path} {name}", context)


def paragraphs(text: str) -> str:
    """Give a docstring as Markdown, each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def examples(epilog: str) -> str:
    """Give an epilog as it stands in a terminal; typer marks text that is not wrapped with a backspace."""
    return textwrap.dedent(epilog.replace("\b\n", "\n")).strip()


def parameters(command: Any, context: Any) -> Iterator[str]:
    """Give the table of a command's arguments and options, but for --help."""
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    yield "| argument or option | |\n| --- | --- |"
    for names, text in records:
        if names != "--help":
            yield f"| <code>{cell(names)}</code> | {cell(text)} |"
    yield ""


def cell(text: str) -> str:
    """Escape what a cell of a table must not hold."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;").replace("*", "&#42;")
