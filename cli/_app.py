"""The application: which commands there are. Each is a file of its own beside this one."""

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
from vocabridge.cli._errors import Commands, end_stopped, heed_sigterm
from vocabridge.cli._output import check_standard_files, log_to_stderr, silence_libraries

app = typer.Typer(
    name="vocabridge",
    cls=Commands,
    help="Carry what a small model learned in post-training to a model of another family, at inference.",
    epilog="Start with `vocabridge demo`; `vocabridge COMMAND --help` has examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def print_version(asked: bool) -> None:
    """Print which version this is, and leave."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"vocabridge {version('vocabridge')}")
        raise typer.Exit()


@app.callback()
def prepare(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Carry what a small model learned in post-training to a model of another family, at inference."""
    log_to_stderr()
    silence_libraries()


app.command(epilog=align.EXAMPLES)(align.align)
app.command(epilog=merge.EXAMPLES)(merge.merge)
app.command(epilog=pairs.EXAMPLES)(pairs.pairs)
app.command(epilog=inspect.EXAMPLES)(inspect.inspect)
app.command(epilog=audit.EXAMPLES)(audit.audit)
app.command(epilog=score.EXAMPLES)(score.score)
app.command(epilog=predict.EXAMPLES)(predict.predict)
app.add_typer(cache.app)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=bridge.EXAMPLES)(bridge.bridge)
app.command(epilog=generate.EXAMPLES)(generate.generate)
app.command(name="eval", epilog=eval.EXAMPLES)(eval.evaluate)
app.command(epilog=demo.EXAMPLES)(demo.demo)


def main() -> None:
    """Run the command line; the exit status is 0, 1 for an error, 2 for wrong usage, 130 or 143 for a stop."""
    check_standard_files()
    try:
        heed_sigterm()
        app(prog_name="vocabridge")
    except KeyboardInterrupt as stop:  # before a command had begun
        end_stopped(stop)
