"""The command line: `vocabridge COMMAND ...`. `main` is the entry point.

A command imports torch, numpy and the like only when it runs, so that `vocabridge --help` answers at once.
"""

from vocabridge.cli._app import main

__all__ = ["main"]
