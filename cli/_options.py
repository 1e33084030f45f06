"""Options that several commands have, and checks of what is given."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from vocabridge.data import VALUE_NETWORKS
from vocabridge.options import Dtype
from vocabridge.utils.ranges import PROCESSES, Range

A_VALUE_NETWORK = f"a value network's folder, or the short name of one that ships here: {', '.join(VALUE_NETWORKS)}"
"""What a value network is given by, for help texts."""

Base = Annotated[str, typer.Option(help="The base model: packaged, hub id, folder or .gguf file.")]

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

Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where the base model goes: cpu, cuda:0, ... By default cpu.")
]

ValueDevice = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where the value sources go. By default where the base does.")
]


@contextmanager
def as_usage(option: str) -> Iterator[None]:
    """Say what the library finds wrong with an option's value as wrong usage of this option."""
    from vocabridge.alignment.errors import VocabridgeError

    try:
        yield
    except VocabridgeError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def number(range_: Range, what: str, **more: Any) -> OptionInfo:
    """Return an option that takes the numbers of a range; `what` is its help, `more` as for `typer.Option`."""
    option: OptionInfo = typer.Option(callback=in_range(range_), help=what, **more)
    return option


def in_range(range_: Range) -> Callable[[Any], Any]:
    """Return a check that refuses a number outside a range; of several, each."""

    def checked(value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number not in range_:
                raise typer.BadParameter(f"{number} is out of range; give {range_}.")
        return value

    return checked


DtypeOption = Annotated[Dtype, typer.Option(help="What all weights are cast to.")]

METHODS = (
    "default",
    "identical-bytes",
    "retokenize",
    "cooccurrence",
    "expected",
    "edit-distance",
    "dtw",
    "dtw-counts",
    "embedding",
    "prefix",
)
"""The names in `vocabridge.alignment.METHODS`."""


def a_method(name: str) -> str:
    """Refuse a method that is not there, alone or in a chain."""
    for one in name.split(","):
        if one.strip() not in METHODS:
            raise typer.BadParameter(f"There is no method {one.strip()!r}; choose among {', '.join(METHODS)}.")
    return name


Method = Annotated[
    str,
    typer.Option(
        metavar="NAME[,NAME...]",
        callback=a_method,
        help=f"How: {', '.join(METHODS)}. Of several, each fills what the ones before it left open.",
    ),
]

CorpusPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        exists=True,
        metavar="PATH",
        help="UTF-8 text file or folder to count on; may be repeated. Without it: text that ships here.",
    ),
]

Jobs = Annotated[int, number(PROCESSES, "Count the text in so many processes; the result is the same for any number.")]


def text_or_stdin(text: str) -> str:
    """A text that is given as such or, for "-", on stdin, every character of it.

    Raises:
        typer.BadParameter: It is on stdin, which is closed.
        VocabridgeError: It is not UTF-8.
    """
    from vocabridge.alignment.errors import VocabridgeError

    if text == "-" and sys.stdin is None:
        raise typer.BadParameter("stdin is closed; give the text itself", param_hint="PROMPT")
    try:
        data = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
        return data.decode()
    except UnicodeDecodeError as error:
        raise VocabridgeError(f"the prompt is not UTF-8 text at byte {error.start}; convert it") from error


def in_existing_folder(path: Path | None) -> Path | None:
    """Refuse a file to write whose folder is not there, before any work is done.

    Where the file is stdout, all else that is printed goes to stderr.
    """
    if path is not None:
        from vocabridge.alignment.files import LINK_LOOP, is_link_loop, own_descriptor

        if is_link_loop(path):
            raise typer.BadParameter(f"'{path}' is {LINK_LOOP}.")
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise typer.BadParameter(f"There is no folder '{folder}'; make it first.")
        if own_descriptor(path) == 1:
            sys.stdout = sys.stderr
    return path


def output_file(what: str) -> OptionInfo:
    """Return the option `--output` of a command that writes one file."""
    option: OptionInfo = typer.Option("--output", "-o", dir_okay=False, callback=in_existing_folder, help=what)
    return option


def output_folder(what: str) -> OptionInfo:
    """Return the option `--output` of a command that writes a folder."""
    option: OptionInfo = typer.Option("--output", "-o", file_okay=False, callback=in_existing_folder, help=what)
    return option
