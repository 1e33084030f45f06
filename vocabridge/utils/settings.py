"""Configs: frozen dataclasses whose fields are settings, each described once, in the "Attributes" of the docstring.

The command line makes its options of the fields and of these descriptions (`vocabridge.cli._config_options`). This
module and those of the configs import nothing heavy.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, ClassVar, Protocol

from vocabridge.utils.ranges import Range


class Config(Protocol):
    """A frozen dataclass of settings.

    Attributes:
        ranges: The numbers that settings may be, by field; each one of several.
    """

    ranges: ClassVar[Mapping[str, Range]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def descriptions(config: type[Config]) -> dict[str, str]:
    """Return the description of every setting, by field."""
    _, _, entries = (inspect.getdoc(config) or "").partition("Attributes:\n")  # none under python -OO
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", entries, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def check_settings(config: Config) -> None:
    """Check every number and every choice of a config, and make choices that are given by name what they name.

    Raises:
        VocabridgeError: A number is out of its range, or there is no such choice.
    """
    hints = typing.get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        several = isinstance(value, (tuple, list))
        for number in value if several else (value,):
            if (range_ := config.ranges.get(field.name)) is not None and number is not None:
                range_.check(field.name, number)
        if (choices := _choices(hints[field.name])) is not None and value is not None:
            chosen = (_chosen(field.name, one, choices) for one in (value if several else (value,)))
            object.__setattr__(config, field.name, tuple(chosen) if several else next(chosen))  # it is frozen


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
