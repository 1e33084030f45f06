"""How the base model's and the value source's scores become one distribution: a carry and three weights.

    z = a log p_base + b log q_tuned - c log q_untuned

where q is a donor's distribution carried to the target vocabulary. (1, 1, 1) is the paper's and proxy-tuning's
sum, (0, 1, 0) the donor alone, (1, 1, 0) a product of experts. The two carries of a change of logits have two
weights, z = a z_base + b delta_T. Strength alpha goes from the base model alone (0) to these weights (1).
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError, write_whole
from vocabridge.projection import Projection
from vocabridge.value_source import Scores


class Carry(enum.Enum):
    """How scores get from the source vocabulary to the target's; see `projection`.

    Attributes:
        LINEAR: W @ z_delta.
        EXPONENTIAL: log(R @ exp(z_delta)).
        STATIC: C @ p, for the donor with and without the delta: the log-ratio at weights (1, 1, 1).
        INFORMED: The base model itself splits each source token's mass, for both distributions.
    """

    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    STATIC = "static"
    INFORMED = "informed"

    @property
    def of_delta(self) -> bool:
        """Whether it carries the change of logits; else the two distributions."""
        return self in (Carry.LINEAR, Carry.EXPONENTIAL)


@dataclass(frozen=True)
class Combination:
    """A carry and its weights.

    Attributes:
        carry: How scores change vocabulary.
        base: a, the weight of the base model.
        tuned: b, the weight of the tuned donor, or of the delta.
        untuned: c, the weight of the untuned donor; not used by the carries of a delta.
    """

    carry: Carry = Carry.INFORMED
    base: float = 1.0
    tuned: float = 1.0
    untuned: float = 1.0

    def at(self, strength: float) -> Combination:
        """The combination at strength alpha: weights (1 + alpha (a - 1), alpha b, alpha c)."""
        return Combination(
            carry=self.carry,
            base=1 + strength * (self.base - 1),
            tuned=strength * self.tuned,
            untuned=strength * self.untuned,
        )

    def needs(self) -> dict[str, bool]:
        """The quantities of a value source that it uses; those of weight 0 are not computed."""
        if self.carry.of_delta:
            return {"delta": self.tuned != 0}
        return {"tuned": self.tuned != 0, "untuned": self.untuned != 0}

    def apply(self, projection: Projection, base_logits: Tensor, scores: Scores) -> Tensor:
        """Combines scores at n positions.

        Args:
            projection: From the source vocabulary to the target's.
            base_logits: The base model's, float32 (n, |T|).
            scores: The value source's, float32 (n, |S|), those that `needs` names.

        Returns:
            Logits, float32 (n, |T|).
        """
        combined = self.base * base_logits
        for weight, feature in zip(self.weights[1:], carried(self.carry, projection, base_logits, scores), strict=True):
            if feature is not None:
                combined = combined + weight * feature
        return combined

    @property
    def weights(self) -> tuple[float, ...]:
        """The factors of the base's scores and of what `carried` gives."""
        return (self.base, self.tuned) if self.carry.of_delta else (self.base, self.tuned, -self.untuned)

    def save(self, path: Path) -> None:
        """Writes it as JSON.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        write_whole(path, (json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def as_dict(self) -> dict[str, str | float]:
        """Its JSON form."""
        return {"carry": self.carry.value, "base": self.base, "tuned": self.tuned, "untuned": self.untuned}

    @classmethod
    def load(cls, path: Path) -> Combination:
        """Reads what `save` wrote, or the combination in a report of `vocabridge eval`.

        Raises:
            VocabridgeError: The file is missing or is not a combination.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields = fields.get("combination", fields) if isinstance(fields, dict) else fields
            weights = {name: float(fields[name]) for name in ("base", "tuned", "untuned")}
            return cls(carry=Carry(fields["carry"]), **weights)
        except FileNotFoundError:
            raise VocabridgeError(f"there is no file {path}; `vocabridge eval` writes a combination") from None
        except (ValueError, KeyError, TypeError) as error:
            raise VocabridgeError(
                f"{path} is not a combination ({error}); it needs carry, base, tuned and untuned"
            ) from error


def carried(carry: Carry, projection: Projection, base_logits: Tensor, scores: Scores) -> tuple[Tensor | None, ...]:
    """What a carry makes of a value source's scores: one tensor (n, |T|) a weight, None where a score is absent."""
    if carry.of_delta:
        if scores.delta is None:
            return (None,)
        return ((projection.linear if carry is Carry.LINEAR else projection.exponential)(scores.delta),)
    donors = [logits for logits in (scores.tuned, scores.untuned) if logits is not None]
    if not donors:
        return (None, None)
    carry_over = projection.static if carry is Carry.STATIC else projection.informed
    q = carry_over(torch.stack(donors).softmax(-1), base_logits.softmax(-1))
    log_q = iter(q.clamp_min(torch.finfo(q.dtype).tiny).log())
    return tuple(None if logits is None else next(log_q) for logits in (scores.tuned, scores.untuned))
