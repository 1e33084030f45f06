"""The typer application with all commands, each of which is a file of this folder."""

from __future__ import annotations

from typing import Annotated

import typer

from vocabridge.cli import (
    align,
    audit,
    bridge,
    cache,
    demo,
    eval,
    generate,
    inspect,
    merge,
    pairs,
    predict,
    score,
    train,
)
from vocabridge.cli._errors import Commands, end_stopped, handle_sigterm
from vocabridge.cli._options import Command
from vocabridge.cli._output import check_standard_files, log_to_stderr, silence_libraries

SUMMARY = "Steer a big language model with a small fine-tuned model that has another tokenizer, at inference."

app = typer.Typer(
    name="vocabridge",
    cls=Commands,
    help=SUMMARY,
    epilog="Start with `vocabridge demo`; `vocabridge COMMAND --help` has examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def print_version(requested: bool) -> None:
    """Print the version and exit, if requested."""
    if requested:
        from importlib.metadata import version

        typer.echo(f"vocabridge {version('vocabridge')}")
        raise typer.Exit()


@app.callback(help=SUMMARY)
def prepare(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Configure logging before a command runs."""
    log_to_stderr()
    silence_libraries()


app.command(cls=Command, epilog=align.EXAMPLES)(align.align)
app.command(cls=Command, epilog=merge.EXAMPLES)(merge.merge)
app.command(cls=Command, epilog=pairs.EXAMPLES)(pairs.pairs)
app.command(cls=Command, epilog=inspect.EXAMPLES)(inspect.inspect)
app.command(cls=Command, epilog=audit.EXAMPLES)(audit.audit)
app.command(cls=Command, epilog=score.EXAMPLES)(score.score)
app.command(cls=Command, epilog=predict.EXAMPLES)(predict.predict)
app.add_typer(cache.app)
app.command(cls=Command, epilog=train.EXAMPLES)(train.train)
app.command(cls=Command, epilog=bridge.EXAMPLES)(bridge.bridge)
app.command(cls=Command, epilog=generate.EXAMPLES)(generate.generate)
app.command(name="eval", cls=Command, epilog=eval.EXAMPLES)(eval.evaluate)
app.command(cls=Command, epilog=demo.EXAMPLES)(demo.demo)


def main() -> None:
    """Run the command line; the exit status is 0, 1 for an error, 2 for wrong usage, 130 or 143 if interrupted."""
    check_standard_files()
    try:
        handle_sigterm()
        app(prog_name="vocabridge")
    except KeyboardInterrupt as stop:  # before a command started
        end_stopped(stop)
