"""Error types for everything that a user can cause: bad files, wrong tokenizers, impossible or unused settings."""

from __future__ import annotations

import logging
from typing import NamedTuple


class VocabridgeError(Exception):
    """A request that cannot be met.

    The message is one sentence that names the cause and says what to do, without a capital at its start and a period at
    its end, because it stands after "error: " and within other sentences.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops the process as Ctrl-C does."""


class UsageError(VocabridgeError):
    """A setting that conflicts with the others. The command line names its option and exits with status 2.

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
        setting: The name of the setting, as in its option.
        given: Whether the setting differs from its default.
        effective: Whether the setting changes anything, given the other settings.
        advice: Why the setting has no effect, and what to do.
    """

    setting: str
    given: bool
    effective: bool
    advice: str


def refuse_idle(*effects: Effect) -> None:
    """Refuse settings that are given but have no effect.

    Raises:
        UsageError: There is such a setting; the error names the first.
    """
    for effect in effects:
        if effect.given and not effect.effective:
            raise UsageError(effect.setting, f"has no effect here: {effect.advice}")


def refuse_empty(name: object, what: str) -> None:
    """Refuse an empty name, which as a path would be the working folder.

    Args:
        name: The name.
        what: What it names, for the error.

    Raises:
        VocabridgeError: The name is empty.
    """
    if name == "":
        raise VocabridgeError(f"the name of the {what} is empty; give one, and check that its variable is set")


def warn_idle(*effects: Effect) -> None:
    """Warn of settings that are given but have no effect, for example because a feature is switched off."""
    for effect in effects:
        if effect.given and not effect.effective:
            logging.getLogger("vocabridge").warning("%s has no effect here: %s", effect.setting, effect.advice)
