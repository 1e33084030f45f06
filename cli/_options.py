"""Options that several commands share, and checks of their values."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from vocabridge.data import VALUE_NETWORKS
from vocabridge.options import Dtype
from vocabridge.utils.ranges import PROCESSES, Range

A_VALUE_NETWORK = f"a value network's folder, or the short name of a packaged one: {', '.join(VALUE_NETWORKS)}"
"""How to name a value network, for help texts."""

Base = Annotated[
    str, typer.Option(help="The base model: a packaged model, hub id, folder, .gguf file or PEFT adapter.")
]

Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Device of the base model: cpu, cuda:0, ... By default cpu.")
]

ValueDevice = Annotated[
    str | None, typer.Option(metavar="NAME", help="Device of the value sources. By default that of the base.")
]


_NO_NAMES = {"method", "prompt", "shard", "stop", "strength"}
"""The parameters with text that names nothing."""


class Command(TyperCommand):
    """A command that refuses empty names, which a shell makes of unset variables."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty names before they are parsed, because an empty path would become the working folder."""
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            values = given.get(parameter.name or "")
            if "" in (values if isinstance(values, list | tuple) else [values]) and parameter.name not in _NO_NAMES:
                hint = (parameter.param_type_name == "argument" and parameter.metavar) or parameter.opts[0]
                what = hint.strip("-.").replace("-", " ").lower()
                reason = f"The name of the {what} is empty; give one, and check that its variable is set."
                raise typer.BadParameter(reason, param_hint=hint)
        return super().parse_args(ctx, args)


@contextmanager
def as_usage(option: str) -> Iterator[None]:
    """Report a `VocabridgeError` as wrong usage of an option."""
    from vocabridge.alignment.errors import VocabridgeError

    try:
        yield
    except VocabridgeError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def number(range_: Range, help_text: str, **arguments: Any) -> OptionInfo:
    """Return an option that takes numbers of a range; `arguments` are those of `typer.Option`."""
    option: OptionInfo = typer.Option(callback=in_range(range_), help=help_text, **arguments)
    return option


def in_range(range_: Range) -> Callable[[Any], Any]:
    """Return a callback that refuses a number, or any number of a list, that is not in a range."""

    def checked(value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number not in range_:
                raise typer.BadParameter(f"{number} is out of range; give {range_}.")
        return value

    return checked


DtypeOption = Annotated[Dtype, typer.Option(help="The dtype to which all weights are cast.")]

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
    """Refuse an unknown method, alone or in a chain."""
    for method in name.split(","):
        if method.strip() not in METHODS:
            raise typer.BadParameter(f"There is no method {method.strip()!r}; choose among {', '.join(METHODS)}.")
    return name


Method = Annotated[
    str,
    typer.Option(
        metavar="NAME[,NAME...]",
        callback=a_method,
        help=f"How tokens are counted: {', '.join(METHODS)}. In a chain, each method fills the rows and columns that "
        "those before it left empty.",
    ),
]

CorpusPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        exists=True,
        metavar="PATH",
        help="UTF-8 text file or folder to count on; may be repeated. By default the packaged corpus.",
    ),
]

Jobs = Annotated[int, number(PROCESSES, "Number of processes that count; the result is the same for any number.")]


def text_or_stdin(text: str) -> str:
    """Return a text, or for "-" every character of stdin.

    Raises:
        typer.BadParameter: The text is "-", and stdin is closed.
        VocabridgeError: The text is not UTF-8.
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
    """Refuse an output path in a missing folder, before any work is done.

    If the path is stdout, everything else that the command prints goes to stderr.
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


def output_file(help_text: str) -> OptionInfo:
    """Return the option `--output` of a command that writes one file."""
    option: OptionInfo = typer.Option("--output", "-o", dir_okay=False, callback=in_existing_folder, help=help_text)
    return option


def output_folder(help_text: str) -> OptionInfo:
    """Return the option `--output` of a command that writes a folder."""
    option: OptionInfo = typer.Option("--output", "-o", file_okay=False, callback=in_existing_folder, help=help_text)
    return option
