"""What a value network reads of its small base, what it starts from, and which of several bases a step has."""

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


class Turns(str, Enum):
    """Which of several bases a training step has."""

    IN_TURN = "in-turn"
    SAMPLED = "sampled"
