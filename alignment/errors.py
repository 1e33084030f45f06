"""The one error type for everything a user can cause: bad files, wrong tokenizers, impossible requests."""

from __future__ import annotations


class VocabridgeError(Exception):
    """A request that cannot be met; the message is one sentence that names the cause and says what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops work as Ctrl-C does."""
