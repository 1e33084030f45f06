"""Sums over the target tokens of a text: over all, by the class of the token, and by how the tokens lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from vocabridge.alignment import TokenClass
from vocabridge.diagnostics.token_spans import SpanRelation


class Sum(Protocol):
    """A sum to which tokens are added one by one."""

    def add(self, *amounts: Any) -> None:
        """Add one token."""

    def as_dict(self) -> dict[str, float]:
        """Return the JSON form."""


SumT = TypeVar("SumT", bound=Sum)


@dataclass
class Breakdown(Generic[SumT]):
    """Sums over all tokens, by class and by span relation.

    Attributes:
        make_sum: Makes an empty sum.
        overall: The sum over all tokens.
        by_class: By the class of the target token, for the classes that occur.
        by_relation: By how the tokens of both vocabularies lie, for the relations that occur.
        inactive: The number of tokens for which the source makes no prediction.
    """

    make_sum: Callable[[], SumT]
    overall: SumT = field(init=False)
    by_class: dict[TokenClass, SumT] = field(init=False, default_factory=dict)
    by_relation: dict[SpanRelation, SumT] = field(init=False, default_factory=dict)
    inactive: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Start with an empty sum."""
        self.overall = self.make_sum()

    def add(self, token_class: TokenClass, relation: SpanRelation, *amounts: Any) -> None:
        """Add one token of a class, with its relation and the amounts that the sums take."""
        self.overall.add(*amounts)
        self.by_class.setdefault(token_class, self.make_sum()).add(*amounts)
        self.by_relation.setdefault(relation, self.make_sum()).add(*amounts)

    @property
    def classes(self) -> list[TokenClass]:
        """The classes that occur, in the order of `TokenClass`."""
        return [token_class for token_class in TokenClass if token_class in self.by_class]

    @property
    def relations(self) -> list[SpanRelation]:
        """The relations that occur, in the order of `SpanRelation`."""
        return [relation for relation in SpanRelation if relation in self.by_relation]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "overall": self.overall.as_dict(),
            "by_class": {token_class.label: self.by_class[token_class].as_dict() for token_class in self.classes},
            "by_relation": {relation.value: self.by_relation[relation].as_dict() for relation in self.relations},
            "inactive": self.inactive,
        }
