"""Settings of a config: each is a field of a frozen dataclass, and its description and its range stand beside it.

    epochs: int = field(default=1, metadata=setting("Passes over the data, at most.", COUNT))

The command line makes its options of these fields (`vocabridge.cli._config_options`), so nothing is described twice.
This module and those of the configs import nothing heavy.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vocabridge.utils.ranges import Range


def setting(
    description: str, range_: Range | None = None, *, option: str | None = None, default: str | None = None
) -> dict[str, Any]:
    """Return the metadata of a field.

    Args:
        description: What the setting does, for `--help` and for readers of the config.
        range_: The numbers that it may be; each one of several.
        option: Its name in messages and on the command line, where that is not the name of the field.
        default: What None stands for, for people.
    """
    return {"description": description, "range": range_, "option": option, "default": default}


def check_ranges(config: Any) -> None:
    """Check every number of a config.

    Raises:
        VocabridgeError: One is out of its range.
    """
    for field in fields(config):
        value, range_ = getattr(config, field.name), field.metadata["range"]
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if range_ is not None and number is not None:
                range_.check(field.metadata["option"] or field.name, number)
