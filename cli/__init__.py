"""The command line: `vocabridge COMMAND ...`. `main` is the entry point.

Nothing heavy is imported before a command needs it, so that `vocabridge --help` answers at once.
"""

from vocabridge.cli._app import main

__all__ = ["main"]
