"""What keeps steering from doing harm: which tokens stay out.

    logit of y = -inf where p_base(y) < plausibility_threshold * max p_base

The mask is contrastive decoding's (Li et al., arXiv 2210.15097): a small model's change can lift a token that the
base model finds absurd. It is off by default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError


@dataclass(frozen=True)
class SteeringLimits:
    """Limits of steering; by default there are none.

    Attributes:
        plausibility_threshold: Tokens whose probability under the base model is less than this fraction, 0 to 1, of its
            best one's stay out, at logit -inf; a text that has one then has probability 0. The base's best one stays.
    """

    plausibility_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VocabridgeError: One is out of range.
        """
        if not 0 <= self.plausibility_threshold <= 1:
            raise VocabridgeError(
                f"plausibility_threshold is a fraction, and {self.plausibility_threshold} is none; give 0 (off) to 1"
            )

    def gate(self, p_base: Tensor) -> Tensor | None:
        """Return where steering acts, to multiply its strength with; nudging has such a gate.

        Args:
            p_base: The base's distribution, (n, |T|).

        Returns:
            1 or 0 at each position, float32 (n, 1); None is 1 everywhere.
        """
        return None

    def exclude(self, steered: Tensor, p_base: Tensor, active: Tensor) -> None:
        """Set the logits of implausible tokens to -inf, in place.

        Args:
            steered: The steered logits, float32 (n, |T|).
            p_base: The base's distribution, (n, |T|).
            active: Where any source makes a prediction, (n, 1), 1 or 0; elsewhere nothing is limited.
        """
        if self.plausibility_threshold > 0:
            least = self.plausibility_threshold * active * p_base.amax(-1, keepdim=True)
            steered.masked_fill_(p_base < least, -torch.inf)

    def as_dict(self) -> dict[str, float]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> SteeringLimits:
        """Read the JSON form; what it does not name is off.

        Raises:
            VocabridgeError: That is no set of limits.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not set(values) <= set(names):
            raise VocabridgeError(f"{values!r} is no set of limits; give an object with {', '.join(names)}")
        try:
            return cls(**{name: float(value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            raise VocabridgeError(f"{values!r} is no set of limits ({error}); its values are numbers") from error
