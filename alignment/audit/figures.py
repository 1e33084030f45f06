"""Figures of an audit: dataclasses of numbers that add up, with ratios of sums of them; their JSON form has both."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from vocabridge.alignment.tokenizers.classes import TokenClass

Figures = TypeVar("Figures")

CLASSES = tuple(TokenClass)
TEXT_CLASSES = CLASSES[: TokenClass.CONTROL]


class Ratio:
    """An attribute: some of an object's numbers over others, each named and added up; NaN where these are 0."""

    def __init__(self, parts: str, of: str) -> None:
        self._parts, self._wholes = parts.split(), of.split()

    def __get__(self, one: object, owner: type) -> float:
        part, whole = (sum(getattr(one, name) for name in names) for names in (self._parts, self._wholes))
        return part / whole if whole else math.nan


def total(parts: Iterable[Figures]) -> Figures:
    """Add up dataclasses whose first field is their class (None in the sum), and all others numbers."""
    rows: list[Any] = list(parts)
    names = [field.name for field in dataclasses.fields(rows[0])][1:]
    found: Figures = type(rows[0])(None, *(sum(getattr(row, name) for row in rows) for name in names))
    return found


def document(value: Any) -> Any:
    """Return a value as JSON knows it: a dataclass with its ratios and properties, a class of tokens by its label."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, member in vars(type(value)).items() if isinstance(member, (property, Ratio))]
        return {name: document(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.label if isinstance(value, TokenClass) else value.value
    if isinstance(value, Mapping):
        return {key: document(item) for key, item in value.items()}
    return [document(item) for item in value] if isinstance(value, tuple) else value
