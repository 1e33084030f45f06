"""Settings of a config: each is a field of a frozen dataclass, and its description and its range stand beside it.

    epochs: int = field(default=1, metadata=setting("Passes over the data, at most.", COUNT))

The command line makes its options of these fields (`vocabridge.cli._config_options`), so nothing is described twice.
This module and those of the configs import nothing heavy.
"""

from __future__ import annotations

import typing
from dataclasses import fields
from enum import Enum
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


def check_settings(config: Any) -> None:
    """Check every number and every choice of a config, and make choices that are given by name what they name.

    Raises:
        VocabridgeError: A number is out of its range, or there is no such choice.
    """
    hints = typing.get_type_hints(type(config))
    for field in fields(config):
        name, value = field.metadata["option"] or field.name, getattr(config, field.name)
        several = isinstance(value, (tuple, list))
        for number in value if several else (value,):
            if field.metadata["range"] is not None and number is not None:
                field.metadata["range"].check(name, number)
        if (choices := _choices(hints[field.name])) is not None and value is not None:
            chosen = tuple(_chosen(name, one, choices) for one in value) if several else _chosen(name, value, choices)
            object.__setattr__(config, field.name, chosen)  # the config is frozen


def _choices(hint: Any) -> type[Enum] | None:
    """Return the enum in a type, such as `tuple[Scheme, ...] | None`."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return next((choices for inner in typing.get_args(hint) if (choices := _choices(inner)) is not None), None)


def _chosen(name: str, value: Any, choices: type[Enum]) -> Enum:
    try:
        return choices(value)
    except ValueError:
        from vocabridge.alignment.errors import VocabridgeError  # with all of alignment

        names = ", ".join(str(choice.value) for choice in choices)
        raise VocabridgeError(f"{name} cannot be {value!r}; choose among {names}") from None
