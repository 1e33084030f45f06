"""Sums over the target tokens of a text: over all of them, by the class of the token, and by how the tokens lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from vocabridge.alignment import TokenClass
from vocabridge.diagnostics.token_spans import Fit


class Sum(Protocol):
    """Something that is added up token by token."""

    def add(self, *amounts: Any) -> None:
        """Counts one token."""

    def as_dict(self) -> dict[str, float]:
        """Its JSON form."""


SumT = TypeVar("SumT", bound=Sum)


@dataclass
class Breakdown(Generic[SumT]):
    """Sums by class and by fit.

    Attributes:
        nothing: Makes the sum of no tokens.
        overall: Of all tokens.
        by_class: By the class of the target token; of those that there were.
        by_fit: By how the tokens of both vocabularies lie; likewise.
        silent: Tokens at which the source said nothing.
    """

    nothing: Callable[[], SumT]
    overall: SumT = field(init=False)
    by_class: dict[TokenClass, SumT] = field(init=False, default_factory=dict)
    by_fit: dict[Fit, SumT] = field(init=False, default_factory=dict)
    silent: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Begins with no tokens."""
        self.overall = self.nothing()

    def add(self, one: TokenClass, fit: Fit, *amounts: Any) -> None:
        """Counts a token of a class that lies so."""
        self.overall.add(*amounts)
        self.by_class.setdefault(one, self.nothing()).add(*amounts)
        self.by_fit.setdefault(fit, self.nothing()).add(*amounts)

    @property
    def classes(self) -> list[TokenClass]:
        """The classes of which there were tokens."""
        return [one for one in TokenClass if one in self.by_class]

    @property
    def fits(self) -> list[Fit]:
        """The ways to lie of which there were tokens."""
        return [fit for fit in Fit if fit in self.by_fit]

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        return {
            "overall": self.overall.as_dict(),
            "by_class": {one.label: self.by_class[one].as_dict() for one in self.classes},
            "by_fit": {fit.value: self.by_fit[fit].as_dict() for fit in self.fits},
            "silent": self.silent,
        }
