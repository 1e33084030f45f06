"""The limits of steering, which exclude tokens that the base model finds implausible.

    logit of y = -inf where p_base(y) < plausibility_threshold * max p_base

This is the plausibility constraint of contrastive decoding (Li et al., arXiv 2210.15097). Without it, a small model's
change of logits can make a token likely that the base model finds absurd. It is off by default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError


@dataclass(frozen=True)
class SteeringLimits:
    """The limits of steering; by default there are none.

    Attributes:
        plausibility_threshold: A fraction from 0 (off) to 1. A token gets the logit -inf if its base probability is
            less than this fraction of the base's highest one, so a text with such a token has probability 0. The base's
            most likely token is never excluded.
    """

    plausibility_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VocabridgeError: A value is out of range.
        """
        if not 0 <= self.plausibility_threshold <= 1:
            raise VocabridgeError(
                f"plausibility_threshold is a fraction and cannot be {self.plausibility_threshold}; give 0 (off) to 1"
            )

    def gate(self, p_base: Tensor) -> Tensor | None:
        """Return a factor of the strength at each position; subclasses such as nudging override this.

        Args:
            p_base: The base's distribution, (n, |T|).

        Returns:
            1 where steering acts and 0 elsewhere, float32 (n, 1); None for 1 everywhere.
        """
        return None

    def exclude(self, steered: Tensor, p_base: Tensor, active: Tensor) -> None:
        """Set the logits of implausible tokens to -inf, in place.

        Args:
            steered: The steered logits, float32 (n, |T|).
            p_base: The base's distribution, (n, |T|).
            active: 1 where a source makes a prediction, else 0, (n, 1). No token is excluded where it is 0.
        """
        if self.plausibility_threshold > 0:
            lowest = self.plausibility_threshold * active * p_base.amax(-1, keepdim=True)
            steered.masked_fill_(p_base < lowest, -torch.inf)

    def as_dict(self) -> dict[str, float]:
        """Return the limits as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> SteeringLimits:
        """Read the JSON object of `as_dict`; a limit that it lacks is off.

        Raises:
            VocabridgeError: The object is not a set of limits.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not set(values) <= set(names):
            raise VocabridgeError(f"{values!r} is not a set of limits; give an object with {', '.join(names)}")
        try:
            return cls(**{name: float(value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            raise VocabridgeError(f"{values!r} is not a set of limits ({error}); give numbers as its values") from error
