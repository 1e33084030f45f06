"""Output of commands: results go to stdout, progress and log lines to stderr.

A result is a table or, with --json, one JSON document and nothing else.
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
"""The note about a bridge with default weights."""

PROGRESS_SECONDS = 5.0
"""Seconds between two lines of progress, if stderr is not a terminal."""

PIPED_WIDTH = 120
"""Maximum width of a table in columns, if stdout is not a terminal and COLUMNS is not set."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
"""The option that every command has."""


def note_unfitted(combinations: Iterable[Combination]) -> None:
    """Print a note on stderr if any of the combinations has default weights."""
    if not all(combination.fitted for combination in combinations):
        typer.echo(f"note: {UNFITTED_NOTE}", err=True)


def print_json(document: object) -> None:
    """Print one JSON document; see `plain` for values that JSON does not have."""
    sys.stdout.write(json.dumps(plain(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def plain(value: object) -> Any:
    """Convert a value for JSON: dataclasses to objects, paths and enums to strings, NaN and infinity to null."""
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
    """Print named facts, one per line."""
    print_table(title, (), [(name, str(value)) for name, value in facts.items()])


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, at most as wide as the terminal, or as COLUMNS or `PIPED_WIDTH` if stdout is not a terminal.

    If the table has a header, columns after the first are right-aligned.
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
        # Lines break only between words, so that a path can be copied.
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
    """Format a number: 49,152."""
    return f"{number:,}"


def size(number_of_bytes: int) -> str:
    """Format a number of bytes: 3.2 MB."""
    return f"{number_of_bytes / 1e6:,.1f} MB"


@functools.cache
def stderr() -> Console:
    """Return the only console on stderr, so that log lines appear above a progress bar and not within it."""
    from rich.console import Console

    return Console(stderr=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        _print_line(level + record.getMessage())


def check_standard_files() -> None:
    """Refuse a closed stdout, and open a closed stdin or stderr on the null device.

    Otherwise a file that a command opens would get the descriptor of the closed one, and with it the other's output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `number`
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (stays open until the process ends)
    if sys.stdout is None:
        fail("stdout is closed; redirect it to a file or to /dev/null")


def log_to_stderr() -> None:
    """Print the library's log lines on stderr."""
    logger = logging.getLogger("vocabridge")
    if not logger.handlers:
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def silence_libraries() -> None:
    """Switch off progress bars and warnings of other libraries, which read these variables when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def is_first_process() -> bool:
    """Return whether this process prints: of a launcher's processes only the first one does."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def shared_progress(description: str) -> Iterator[Callable[..., None]]:
    """Show progress as `progress` does, but only in the first of several processes."""
    with progress(description) if is_first_process() else nullcontext(lambda *_: None) as update:
        yield update


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None]]:
    """Show the progress of work on stderr: a bar or, if stderr is not a terminal, a line every few seconds.

    Yields:
        A function to call with the number of steps done, the number of all steps and optionally a new description.
    """
    with _bar(description) if stderr().is_terminal else _lines(description) as update:
        yield update


@contextmanager
def _bar(description: str) -> Iterator[Callable[..., None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(description, total=None)

        def update(done: int, total: int, current: str = description) -> None:
            bar.update(task, completed=done, total=total, description=current)

        yield update


@contextmanager
def _lines(description: str) -> Iterator[Callable[..., None]]:
    """Print the description, then every few seconds the time so far and the steps done."""
    begin, state, ended = time.monotonic(), description, threading.Event()

    def update(done: int, total: int, current: str = description) -> None:
        nonlocal state
        state = f"{current}: {count(done)} of {count(total)} ({done / total:.0%})" if total > 1 else current

    def repeat() -> None:
        while not ended.wait(PROGRESS_SECONDS):
            _print_line(f"{timedelta(seconds=int(time.monotonic() - begin))} {state}")

    _print_line(description)
    # A thread prints, because no update comes while a model is loaded or during a long step.
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()


def _print_line(line: str) -> None:
    stderr().print(line, markup=False, highlight=False, soft_wrap=True)
