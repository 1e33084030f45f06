"""Write parts of the reference from the code, when mkdocs builds the site.

In place of the line `<!-- commands -->` go every command's usage, help, arguments, options and examples, from the typer
application. In place of `<!-- defaults of MODULE.CLASS -->` goes a table of a dataclass's fields.
"""

from __future__ import annotations

import dataclasses
import html
import importlib
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from vocabridge.utils.settings import descriptions

COMMANDS = "<!-- commands -->"
DEFAULTS = re.compile(r"<!-- defaults of ([\w.]+)\.(\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what is made from the code; mkdocs calls it for every page."""
    if COMMANDS in markdown:
        import typer

        from vocabridge.cli import _app

        markdown = markdown.replace(COMMANDS, "\n".join(describe(typer.main.get_command(_app.app), "vocabridge")))
    return DEFAULTS.sub(lambda match: "\n".join(defaults(*match.groups())), markdown)


def defaults(module: str, name: str) -> Iterator[str]:
    """Give the table of a dataclass's fields: name, default, and what its docstring says."""
    settings = getattr(importlib.import_module(module), name)
    texts = descriptions(settings)
    yield "| field | default | |\n| --- | --- | --- |"
    for field in dataclasses.fields(settings):
        value = "required" if field.default is dataclasses.MISSING else getattr(field.default, "value", field.default)
        yield f"| `{field.name}` | {cell(str(value))} | {cell(texts[field.name])} |"


def describe(command: Any, path: str, parent: Any = None) -> Iterator[str]:
    """Give the Markdown lines of a command, or of a group and its commands."""
    context = type(command).context_class(command, info_name=path.rpartition(" ")[2], parent=parent)
    commands = getattr(command, "commands", None)
    if parent is not None:
        yield f"{'#' * (path.count(' ') + 1)} `{path}`\n"
        yield f"{paragraphs(command.help)}\n"
    if commands is None:
        yield f"```sh\n{' '.join(command.get_usage(context).removeprefix('Usage: ').split())}\n```\n"
        yield from parameters(command, context)
        if command.epilog:
            yield f"```sh\n{examples(command.epilog)}\n```\n"
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
