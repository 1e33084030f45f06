"""What keeps steering from doing harm: how much it may change, and which tokens stay out.

    cap           change *= min(1, max_change_std / std(change)), the deviation under p_base
    plausibility  logit of y = -inf where p_base(y) < plausibility_threshold * max p_base

The mask is contrastive decoding's (Li et al., arXiv 2210.15097): a small model's change can lift a token that the
base model finds absurd. Both are off by default.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError


@dataclass(frozen=True)
class SteeringLimits:
    """Limits of steering; the values by default are no limits.

    Attributes:
        plausibility_threshold: Tokens whose probability under the base model is less than this fraction, 0 to 1, of its
            best one's stay out, at logit -inf; a text that has one then has probability 0. The base's best one stays.
        max_change_std: The most that all changes together may be, in nats: their standard deviation under the base's
            distribution. A constant added to all logits, which changes nothing, does not count, nor do the many
            tokens that never come up; half its square is, to second order, the divergence KL(base, steered). It
            cannot see a huge change of a token that the base finds absurd; `plausibility_threshold` does.
    """

    plausibility_threshold: float = 0.0
    max_change_std: float = math.inf

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            VocabridgeError: One is out of range.
        """
        if not 0 <= self.plausibility_threshold <= 1:
            raise VocabridgeError(
                f"plausibility_threshold is a fraction, and {self.plausibility_threshold} is none; give 0 (off) to 1"
            )
        if not self.max_change_std > 0:
            raise VocabridgeError(
                f"max_change_std cannot be {self.max_change_std}; give a number above 0, or a strength of 0 for no "
                "change at all"
            )

    def gate(self, p_base: Tensor) -> Tensor | None:
        """Where steering acts, to multiply its strength with; nudging has such a gate.

        Args:
            p_base: The base's distribution, (n, |T|).

        Returns:
            1 or 0 at each position, float32 (n, 1); None is 1 everywhere.
        """
        return None

    def limit(self, base_logits: Tensor, p_base: Tensor, change: Tensor, active: Tensor, out: Tensor) -> None:
        """Writes the steered logits: the base's and the change, as far as it is allowed.

        Args:
            base_logits: The base model's, float32 (n, |T|).
            p_base: Their softmax.
            change: The sum of all changes, float32 (n, |T|), finite; may be changed.
            active: Where any source has a say, (n, 1), 1 or 0; elsewhere nothing is limited.
            out: Where the logits go, float32 (n, |T|).
        """
        if self.max_change_std < math.inf:
            change = change.mul_((self.max_change_std / norm(p_base, change)).clamp_max(1.0))
        torch.add(base_logits, change, out=out)
        if self.plausibility_threshold > 0:
            out.masked_fill_(p_base < self.plausibility_threshold * active * p_base.amax(-1, keepdim=True), -torch.inf)

    def as_dict(self) -> dict[str, float | None]:
        """Its JSON form; JSON knows no infinity, so no cap is None."""
        return asdict(self) | {"max_change_std": None if self.max_change_std == math.inf else self.max_change_std}

    @classmethod
    def from_dict(cls, values: Any) -> SteeringLimits:
        """From its JSON form; what it does not name is off.

        Raises:
            VocabridgeError: That is no set of limits.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not set(values) <= set(names):
            raise VocabridgeError(f"{values!r} is no set of limits; give an object with some of {', '.join(names)}")
        try:
            return cls(**{name: float(value) for name, value in values.items() if value is not None})
        except (TypeError, ValueError) as error:
            raise VocabridgeError(f"{values!r} is no set of limits ({error}); its values are numbers") from error


def norm(p_base: Tensor, change: Tensor) -> Tensor:
    """The standard deviation of changes (n, |T|) under the base's distribution, in nats, (n, 1)."""
    mean = torch.linalg.vecdot(p_base, change).unsqueeze(-1)
    return torch.linalg.vecdot(p_base, (change - mean).square_()).sqrt().unsqueeze(-1)
