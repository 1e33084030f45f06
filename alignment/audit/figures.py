"""The figures of an audit: ratios of fields, sums of dataclasses, and their JSON form."""

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
    """A descriptor for the ratio of two sums of an object's fields; NaN if the second sum is 0."""

    def __init__(self, parts: str, of: str) -> None:
        """Name the fields of both sums, separated by spaces."""
        self._numerator, self._denominator = parts.split(), of.split()

    def __get__(self, figures: object, owner: type) -> float:
        numerator = sum(getattr(figures, name) for name in self._numerator)
        denominator = sum(getattr(figures, name) for name in self._denominator)
        return numerator / denominator if denominator else math.nan


def total(parts: Iterable[Figures]) -> Figures:
    """Add dataclasses of numbers, field by field. The first field, the class of tokens, is None in the sum."""
    rows: list[Any] = list(parts)
    names = [field.name for field in dataclasses.fields(rows[0])][1:]
    summed: Figures = type(rows[0])(None, *(sum(getattr(row, name) for row in rows) for name in names))
    return summed


def as_json(value: Any) -> Any:
    """Return the JSON form of a value: a dataclass with its ratios and properties, a class of tokens by its label."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, member in vars(type(value)).items() if isinstance(member, (property, Ratio))]
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.label if isinstance(value, TokenClass) else value.value
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple) else value
