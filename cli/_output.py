"""Where output goes: a command's result to stdout, progress and log lines to stderr.

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
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vocabridge.cli._errors import fail

if TYPE_CHECKING:
    from rich.console import Console

    from vocabridge.projection.combination import Combination

UNFITTED_NOTE = (
    "no weights were fitted; to fit them: vocabridge eval --base BASE --value VALUE --data FILE --validation FILE "
    "-o report.json, then vocabridge bridge --combination report.json"
)
"""What to say of a bridge whose weights are the default."""

PROGRESS_SECONDS = 5.0
"""Where stderr is no terminal, a line of progress is printed this often."""

PIPED_WIDTH = 120
"""The most columns of a table where stdout is no terminal and COLUMNS is not set."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
"""The option that every command has."""


def say_unfitted(combinations: Iterable[Combination]) -> None:
    """Say on stderr that weights are the default and how to fit them, if there are such."""
    if not all(one.fitted for one in combinations):
        typer.echo(f"note: {UNFITTED_NOTE}", err=True)


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
    """Print a table, as wide as the terminal at most; piped, as COLUMNS or `PIPED_WIDTH`.

    Columns after the first are right-aligned where it has a header.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        console = Console(width=int(columns) if columns.isdecimal() and int(columns) else PIPED_WIDTH)
    for line in title.splitlines():
        # Wrapped between words only, so that a path can be copied.
        wrapped = textwrap.wrap(line, console.width, break_long_words=False, break_on_hyphens=False)
        console.print("\n".join(wrapped), style="bold", markup=False, highlight=False, soft_wrap=True)
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
        _print_line(level + record.getMessage())


def check_standard_files() -> None:
    """Refuse a stdout that is closed, and open stdin and stderr on nothing where they are.

    A file that a command opens would have the number of a closed one, and get what is meant for that.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (it stays open)
    if sys.stdout is None:
        fail("stdout is closed; let it go to a file, or to /dev/null")


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
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
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
    """Show on stderr how far some work is: a bar, or where that is no terminal a line every few seconds.

    Yields:
        A function of what is done, what there is to do and, if it changes, what is going on.
    """
    with _bar(what) if stderr().is_terminal else _lines(what) as tell:
        yield tell


@contextmanager
def _bar(what: str) -> Iterator[Callable[..., None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int, now: str = what) -> None:
            bar.update(task, completed=done, total=total, description=now)

        yield tell


@contextmanager
def _lines(what: str) -> Iterator[Callable[..., None]]:
    """A line that says what has begun, then every few seconds the time so far and what is done."""
    begin, state, ended = time.monotonic(), what, threading.Event()

    def tell(done: int, total: int, now: str = what) -> None:
        nonlocal state
        state = f"{now}: {count(done)} of {count(total)} ({done / total:.0%})" if total > 1 else now

    def repeat() -> None:
        while not ended.wait(PROGRESS_SECONDS):
            _print_line(f"{timedelta(seconds=int(time.monotonic() - begin))} {state}")

    _print_line(what)
    # A thread, because a model's loading and a long step tell nothing.
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()


def _print_line(line: str) -> None:
    stderr().print(line, markup=False, highlight=False, soft_wrap=True)
