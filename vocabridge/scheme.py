"""What a value network reads of its small base, and what it starts from."""

from __future__ import annotations

from enum import Enum


class Scheme(str, Enum):
    """What a value network reads; `connection` has the equations."""

    RESIDUAL = "residual"
    CASCADE = "cascade"
    CASCADE_PLUS = "cascade+"

    @property
    def takes_base(self) -> bool:
        """Whether the base's predictions are read, so that the base has to run first."""
        return self is not Scheme.RESIDUAL


class Initialisation(str, Enum):
    """What a value network starts from; its change of logits is 0 either way."""

    PRETRAINED = "pretrained"
    RANDOM = "random"
