"""The error type for everything a user can cause: bad files, wrong tokenizers, impossible requests, idle settings."""

from __future__ import annotations

import logging
from typing import NamedTuple


class VocabridgeError(Exception):
    """A request that cannot be met; the message is one sentence that names the cause and says what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops work as Ctrl-C does."""


class UsageError(VocabridgeError):
    """A setting that does not go with the others; the command line reports its option and exits with status 2.

    Attributes:
        setting: The name of the setting.
        reason: What is wrong with it.
    """

    def __init__(self, setting: str, reason: str) -> None:
        """Name the setting in front of the reason."""
        super().__init__(f"{setting} {reason}")
        self.setting = setting
        self.reason = reason


class Effect(NamedTuple):
    """When a setting has an effect.

    Attributes:
        setting: The name of the setting, as its option has it.
        given: Whether it is given: it is not the default.
        effective: Whether it changes anything, given the other settings.
        advice: Why it changes nothing otherwise, and what to do.
    """

    setting: str
    given: bool
    effective: bool
    advice: str


def refuse_idle(*effects: Effect) -> None:
    """Refuse settings without effect.

    Raises:
        UsageError: A setting is given and has no effect; the first of them.
    """
    for effect in effects:
        if effect.given and not effect.effective:
            raise UsageError(effect.setting, f"has no effect here: {effect.advice}")


def warn_idle(*effects: Effect) -> None:
    """Warn of settings without effect that do no harm, such as those of a part of the work that is switched off."""
    for effect in effects:
        if effect.given and not effect.effective:
            logging.getLogger("vocabridge").warning("%s has no effect here: %s", effect.setting, effect.advice)
