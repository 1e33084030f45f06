"""How a value source's scores change the base model's logits: a carry, a form and three weights.

    product   z = a z_base + b log q_tuned - c log q_untuned
    mixture   p = (a p_base + b q_tuned) / (a + b)

where q is a donor's distribution carried to the target vocabulary. Of the product, (1, 1, 1) is the paper's and
proxy-tuning's sum, (0, 1, 0) the donor alone, (1, 1, 0) a product of experts; the carries of a change of logits
have two weights, z = a z_base + b delta_T. The mixture is the ensemble that one would use without any of this.

What is computed is the change z - z_base, at strength alpha: alpha times that of the product; the mixture with
alpha times the donor's share. Changes of several value sources add up, and alpha = 0 is no change at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError, write_whole
from vocabridge.alignment.jsonio import read_json
from vocabridge.models.value_source import Scores
from vocabridge.options import Form, ProjectionMethod
from vocabridge.projection.projection import Projection

_TINY = torch.finfo(torch.float32).tiny  # a probability of 0 is taken for this one
_LOWEST = -1e4  # a logit of -inf is taken for this one where it has a weight; what the base rules out stays out


@dataclass(frozen=True)
class Combination:
    """A carry, a form and its weights.

    Attributes:
        carry: How scores change vocabulary.
        base: a, the weight of the base model.
        tuned: b, the weight of the tuned donor, or of the delta.
        untuned: c, the weight of the untuned donor; not used by the carries of a delta, nor by mixtures.
        form: Product or mixture.
        fitted: Whether somebody fitted or chose the weights; False for `UNFITTED` alone.
    """

    carry: ProjectionMethod = ProjectionMethod.INFORMED
    base: float = 1.0
    tuned: float = 1.0
    untuned: float = 1.0
    form: Form = Form.PRODUCT
    fitted: bool = True

    def __post_init__(self) -> None:
        """Checks the weights.

        Raises:
            VocabridgeError: A weight is no number, or a mixture cannot be made of this.
        """
        if not all(math.isfinite(weight) for weight in (self.base, self.tuned, self.untuned)):
            raise VocabridgeError(
                f"the weights {self.base}, {self.tuned} and {self.untuned} have to be finite numbers; correct them"
            )
        if self.form is Form.MIXTURE and self.carry.of_logit_delta:
            raise VocabridgeError(
                f"a mixture is of distributions, and the {self.carry.value} carry carries a change of logits; "
                "take the static or the informed carry, or a product"
            )
        if self.form is Form.MIXTURE and (min(self.base, self.tuned) < 0 or self.base + self.tuned == 0):
            raise VocabridgeError(
                f"the weights of a mixture are shares, and {self.base} and {self.tuned} are none; "
                "give two that are at least 0, not both 0"
            )

    def needs(self) -> dict[str, bool]:
        """The quantities of a value source that it uses; those of weight 0 are not computed."""
        if self.carry.of_logit_delta:
            return {"delta": self.tuned != 0}
        return {"tuned": self.tuned != 0, "untuned": self.form is Form.PRODUCT and self.untuned != 0}

    def at(self, strength: float) -> Combination:
        """The combination that makes at strength 1 what this one makes at another."""
        if self.form is Form.MIXTURE:
            share = min(1.0, max(0.0, strength * self.tuned / (self.base + self.tuned)))
            return replace(self, base=1 - share, tuned=share)
        base, tuned, untuned = 1 + strength * (self.base - 1), strength * self.tuned, strength * self.untuned
        return replace(self, base=base, tuned=tuned, untuned=untuned)

    def change(
        self, projection: Projection, base_logits: Tensor, p_base: Tensor, scores: Scores, strength: float | Tensor
    ) -> Tensor:
        """The change of the base's logits that the scores ask for at n positions.

        Whatever the logits and the strength, it is finite; and where the strength is 0, it is exactly 0.

        Args:
            projection: From the source vocabulary to the target's.
            base_logits: The base model's, float32 (n, |T|).
            p_base: Their softmax.
            scores: The value source's, float32 (n, |S|), those that `needs` names.
            strength: alpha; a tensor (n, 1) where it differs from position to position. The share of a mixture's
                donor stops at none and at all of it: there alpha < 0 is 0, and alpha > (a + b) / b is the donor alone.

        Returns:
            The change, float32 (n, |T|), in memory of its own.
        """
        strength = p_base.new_ones(1, 1) * strength
        if self.form is Form.MIXTURE:
            return self._mixture(projection, base_logits, p_base, scores, strength)
        return self._product(projection, base_logits, p_base, scores, strength)

    def _product(
        self, projection: Projection, base_logits: Tensor, p_base: Tensor, scores: Scores, strength: Tensor
    ) -> Tensor:
        """Strength times (a - 1) z_base + b f_tuned - c f_untuned.

        Of distributions f = log q = z_base + log(q / p_base), but for a number a position, which changes nothing.
        """
        if self.carry.of_logit_delta:
            terms = [(self.tuned, scores.delta)]
        else:
            terms = [(self.tuned, scores.tuned), (-self.untuned, scores.untuned)]
        weights = [weight for weight, _ in terms if weight != 0]
        logits = [_given(logits) for weight, logits in terms if weight != 0]
        changes = carried(self.carry, projection, logits, base_logits, p_base, scores)
        change = None
        for weight, one in zip(weights, changes, strict=True):
            scale = strength * weight
            change = one.mul_(scale) if change is None else change.addcmul_(one, scale)
        if change is None:
            change = torch.zeros_like(base_logits)
        base = self.base - 1 + (0 if self.carry.of_logit_delta else math.fsum(weights))
        return change if base == 0 else change.addcmul_(finite(base_logits), strength * base)

    def _mixture(
        self, projection: Projection, base_logits: Tensor, p_base: Tensor, scores: Scores, strength: Tensor
    ) -> Tensor:
        """log((1 - s) p_base + s q_tuned) - log p_base at the donor's share s = alpha b / (a + b)."""
        if self.tuned == 0:
            return torch.zeros_like(base_logits)
        share = (strength * (self.tuned / (self.base + self.tuned))).clamp(0.0, 1.0)
        (change,) = carried(self.carry, projection, [_given(scores.tuned)], base_logits, p_base, scores)
        return torch.logaddexp((1 - share).log(), change.add_(share.log()))

    def save(self, path: Path) -> None:
        """Writes it as JSON.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        write_whole(path, (json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def as_dict(self) -> dict[str, str | float | bool]:
        """Its JSON form."""
        return {
            "carry": self.carry.value,
            "form": self.form.value,
            "base": self.base,
            "tuned": self.tuned,
            "untuned": self.untuned,
            "fitted": self.fitted,
        }

    @classmethod
    def from_dict(cls, fields: Any) -> Combination:
        """From its JSON form; without a form it is a product, as all were before there were others.

        Weights that a file gives count as fitted, unless it says otherwise.

        Raises:
            VocabridgeError: That is no combination.
        """
        try:
            weights = {name: float(fields[name]) for name in ("base", "tuned", "untuned")}
            form, fitted = Form(fields.get("form", "product")), fields.get("fitted", True)
            if not isinstance(fitted, bool):
                raise TypeError(f"fitted is true or false, not {fitted!r}")
            return cls(carry=ProjectionMethod(fields["carry"]), **weights, form=form, fitted=fitted)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VocabridgeError(
                f"that is no combination ({error}); one has carry, base, tuned and untuned, perhaps form and fitted"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Combination:
        """Reads what `save` wrote, or the combination in a report of `vocabridge eval`.

        Raises:
            VocabridgeError: The file is missing or is not a combination.
        """
        try:
            fields = read_json(path)
            return cls.from_dict(fields.get("combination", fields) if isinstance(fields, dict) else fields)
        except FileNotFoundError:
            raise VocabridgeError(f"there is no file {path}; `vocabridge eval` writes a combination") from None
        except (ValueError, VocabridgeError) as error:
            raise VocabridgeError(f"{path} is not a combination: {error}") from error


UNFITTED = Combination(base=0.45, tuned=0.75, untuned=0.1, fitted=False)
"""What a value source steers with until weights are fitted: near all fits, where (1, 1, 1) is far from them."""


def carried(
    carry: ProjectionMethod,
    projection: Projection,
    logits: Sequence[Tensor],
    base_logits: Tensor,
    p_base: Tensor,
    scores: Scores,
) -> tuple[Tensor, ...]:
    """What a carry makes of scores, as changes of the base's logits.

    Args:
        carry: How scores change vocabulary.
        projection: From the source vocabulary to the target's.
        logits: Of the scores, a change of logits for the carries of a delta, else the donors'; float32 (n, |S|) each.
        base_logits: The base model's, float32 (n, |T|).
        p_base: Their softmax.
        scores: What goes with them.

    Returns:
        For each of the logits the carried change of logits, or log(q / p_base) of the carried distribution q; finite,
        (n, |T|), in memory of its own.
    """
    if not logits:
        return ()
    if carry.of_logit_delta:
        carry_over = projection.linear if carry is ProjectionMethod.LINEAR else projection.exponential
        return tuple(carry_over(delta, p_base) for delta in logits)
    donors = torch.stack(tuple(logits)).softmax(-1)  # carried together, they share the base's image
    if carry is ProjectionMethod.INFORMED:
        changes = projection.informed(donors, p_base, scores.ahead, scores.image)
    else:
        log_p = finite(base_logits).sub_(log_total(base_logits, p_base))
        changes = projection.static(donors, p_base, scores.ahead).clamp_min_(_TINY).log_().sub_(log_p)
    return tuple(changes[donor] for donor in range(len(logits)))  # unbind's views could not be written to


def _given(logits: Tensor | None) -> Tensor:
    assert logits is not None, "the value source was not asked for what the combination needs"
    return logits


def log_total(logits: Tensor, p: Tensor) -> Tensor:
    """Log-sum-exp (n, 1) of logits (n, |T|) whose softmax p is known: no logarithm over the vocabulary."""
    return logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()


def finite(logits: Tensor) -> Tensor:
    """A copy in which logits of -inf are numbers that are no less absurd."""
    return logits.clamp_min(_LOWEST)
