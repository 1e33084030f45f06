"""Configs: frozen dataclasses whose fields are settings.

The "Attributes" section of a config's docstring describes each setting. The command line makes its options from the
fields and these descriptions (`vocabridge.cli._config_options`), so this module and those of the configs import nothing
heavy.
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

Choice = typing.TypeVar("Choice", bound=Enum)


class Config(Protocol):
    """A frozen dataclass of settings.

    Attributes:
        ranges: Ranges of the numeric settings, by field; for a tuple, the range of each element.
    """

    ranges: ClassVar[Mapping[str, Range]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def descriptions(config: type[Config]) -> dict[str, str]:
    """Return the descriptions of all settings, by field."""
    _, _, entries = (inspect.getdoc(config) or "").partition("Attributes:\n")  # empty under python -OO
    matches = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", entries, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in matches}


def check_settings(config: Config) -> None:
    """Check the numbers of a config against their ranges, and convert the names of choices to enum members, in place.

    Raises:
        VocabridgeError: A number is out of its range, or a name is none of the choices.
    """
    hints = typing.get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        is_sequence = isinstance(value, (tuple, list))
        for number in value if is_sequence else (value,):
            if (range_ := config.ranges.get(field.name)) is not None and number is not None:
                range_.check(field.name, number)
        if (choices := _choices(hints[field.name])) is not None and value is not None:
            members = [member(field.name, name, choices) for name in (value if is_sequence else (value,))]
            # The dataclass is frozen, so plain assignment would raise.
            object.__setattr__(config, field.name, tuple(members) if is_sequence else members[0])


def _choices(hint: Any) -> type[Enum] | None:
    """Return the enum inside a type hint, such as `Scheme` in `tuple[Scheme, ...] | None`; None if there is none."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return next((choices for inner in typing.get_args(hint) if (choices := _choices(inner)) is not None), None)


def member(name: str, value: Any, choices: type[Choice]) -> Choice:
    """Return the member of an enum that a member or its value stands for.

    Raises:
        VocabridgeError: The value is none of the choices.
    """
    try:
        return choices(value)
    except ValueError:
        from vocabridge.alignment.errors import VocabridgeError  # imports all of alignment

        names = ", ".join(str(choice.value) for choice in choices)
        raise VocabridgeError(f"{name} cannot be {value!r}; choose among {names}") from None
