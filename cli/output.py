"""Where output goes: a command's result to stdout, progress bars and log lines to stderr.

A result is a table for people or, with --json, one JSON document and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
"""The option that every command has."""


def print_json(document: object) -> None:
    """Print one JSON document: dataclasses become objects, paths strings, and what is not a number null."""
    sys.stdout.write(json.dumps(plain(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def plain(value: object) -> Any:
    """A value as JSON knows it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Path, Enum)):
        return str(value) if isinstance(value, Path) else value.name.lower()
    if hasattr(value, "tolist"):  # arrays and their scalars
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print named facts, one a line."""
    print_table(title, (), [(name, str(value)) for name, value in facts.items()])


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; columns after the first are right-aligned where it has a header."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # a pipe or a file: as wide as the content
        console = Console(width=1_000)
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, show_header=bool(header))
    rows = [tuple(row) for row in rows]
    for number, name in enumerate(header or ("",) * len(rows[0] if rows else ())):
        table.add_column(name, justify="right" if header and number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def count(number: int) -> str:
    """A number for people: 49,152."""
    return f"{number:,}"


def size(number_of_bytes: int) -> str:
    """A number of bytes for people: 3.2 MB."""
    return f"{number_of_bytes / 1e6:,.1f} MB"


@functools.cache
def stderr() -> Console:
    """The one console on stderr, so that log lines appear above a progress bar and not through it."""
    from rich.console import Console

    return Console(stderr=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        stderr().print(level + record.getMessage(), markup=False, highlight=False, soft_wrap=True)


def log_to_stderr() -> None:
    """Let the library's log lines appear on stderr."""
    logger = logging.getLogger("vocabridge")
    if not logger.handlers:
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def silence_libraries() -> None:
    """Keep other libraries' progress bars and remarks off stderr; they read this when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def is_first_process() -> bool:
    """Whether this one speaks, of several that a launcher has numbered; one that is alone does."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def shared_progress(what: str) -> Iterator[Callable[..., None]]:
    """`progress` in the first of several processes; nothing in the others."""
    with progress(what) if is_first_process() else nullcontext(lambda *_: None) as tell:
        yield tell


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; where that is no terminal, a line that says what has begun.

    Yields:
        A function of what is done, what there is to do and, if it changes, what is going on.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = stderr()
    if not console.is_terminal:
        console.print(what, markup=False, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int, now: str = what) -> None:
            bar.update(task, completed=done, total=total, description=now)

        yield tell
