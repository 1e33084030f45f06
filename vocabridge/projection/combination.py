"""How a value source's scores change the base model's logits: a projection method, a form and three weights.

    product   z = a z_base + b log q_tuned - c log q_untuned
    mixture   p = (a p_base + b q_tuned) / (a + b)

Here q is a distribution of the small models, projected onto the target vocabulary. Of the product, (1, 1, 1) is the sum
of the paper (arXiv 2410.21027) and of proxy-tuning (arXiv 2401.08565), (0, 1, 0) the donor alone, (1, 1, 0) a product
of experts. Methods that project a change of logits have two weights, z = a z_base + b delta_T. The mixture is the
ensemble that one would use without any of this.

What is computed is the change z - z_base at strength alpha: alpha times that of the product; the mixture with alpha
times the donor's share. Changes of several value sources add up. Alpha = 0 is no change at all.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError, write_atomically
from vocabridge.alignment.jsonio import read_json
from vocabridge.options import Form, ProjectionMethod
from vocabridge.projection.methods import METHODS
from vocabridge.projection.methods.base import BaseDistribution, finite
from vocabridge.projection.projection import Projection
from vocabridge.projection.source_predictions import ResolvedPredictions


@dataclass(frozen=True)
class Combination:
    """A projection method, a form and its weights.

    Attributes:
        method: How scores change vocabulary.
        base_weight: a, the weight of the base model.
        tuned_weight: b, the weight of the tuned small model, or of the change of logits.
        untuned_weight: c, the weight of the untuned small model; not used by methods of a change of logits, nor by
            mixtures.
        form: Product or mixture.
        fitted: Whether the weights were fitted or chosen; False for `UNFITTED` alone.
    """

    method: ProjectionMethod = ProjectionMethod.INFORMED
    base_weight: float = 1.0
    tuned_weight: float = 1.0
    untuned_weight: float = 1.0
    form: Form = Form.PRODUCT
    fitted: bool = True

    def __post_init__(self) -> None:
        """Check the weights.

        Raises:
            VocabridgeError: A weight is not finite, or the method and the weights make no mixture.
        """
        if not all(math.isfinite(weight) for weight in (self.base_weight, self.tuned_weight, self.untuned_weight)):
            raise VocabridgeError(
                f"the weights {self.base_weight}, {self.tuned_weight} and {self.untuned_weight} have to be finite "
                "numbers; correct them"
            )
        if self.form is Form.PRODUCT:
            return
        if self.of_logit_delta:
            raise VocabridgeError(
                f"a mixture is of distributions, and the {self.method.value} method projects a change of logits; "
                "choose the static or the informed method, or a product"
            )
        if min(self.base_weight, self.tuned_weight) < 0 or self.base_weight + self.tuned_weight == 0:
            raise VocabridgeError(
                f"the weights of a mixture are shares, and {self.base_weight} and {self.tuned_weight} are not; "
                "give two that are at least 0, not both 0"
            )

    @property
    def of_logit_delta(self) -> bool:
        """Whether its method projects a change of logits; else distributions."""
        return METHODS[self.method].of_logit_delta

    @property
    def required_scores(self) -> tuple[str, ...]:
        """The fields of `Scores` that it uses; those of weight 0 are not computed."""
        if self.of_logit_delta:
            return ("delta",) if self.tuned_weight != 0 else ()
        weights = {"tuned": self.tuned_weight, "untuned": self.untuned_weight if self.form is Form.PRODUCT else 0}
        return tuple(name for name, weight in weights.items() if weight != 0)

    def at(self, strength: float) -> Combination:
        """Return the combination that makes at strength 1 what this one makes at another strength."""
        if self.form is Form.MIXTURE:
            share = min(1.0, max(0.0, strength * self.tuned_weight / (self.base_weight + self.tuned_weight)))
            return replace(self, base_weight=1 - share, tuned_weight=share)
        return replace(
            self,
            base_weight=1 + strength * (self.base_weight - 1),
            tuned_weight=strength * self.tuned_weight,
            untuned_weight=strength * self.untuned_weight,
        )

    def change(
        self,
        projection: Projection,
        base_logits: Tensor,
        p_base: Tensor,
        predictions: ResolvedPredictions,
        strength: float | Tensor,
    ) -> Tensor:
        """Return the change of the base's logits that the predictions ask for at n positions.

        Whatever the logits and the strength, it is finite; and where the strength is 0, it is exactly 0.

        Args:
            projection: From the source vocabulary to the target's.
            base_logits: The base model's, float32 (n, |T|).
            p_base: Their softmax.
            predictions: The value source's, with the scores that `required_scores` names.
            strength: alpha; a tensor (n, 1) where it differs from position to position. The share of a mixture's donor
                stops at 0 and 1: there alpha < 0 is 0, and alpha > (a + b) / b is the donor alone.

        Returns:
            The change, float32 (n, |T|), in memory of its own.
        """
        strength = p_base.new_ones(1, 1) * strength
        base = BaseDistribution(base_logits, p_base, predictions.base_on_source_vocab)
        projected = projected_scores(self.method, projection, base, predictions, self.required_scores)
        if self.form is Form.MIXTURE:
            return self._mixture(projected, base_logits, strength)
        return self._product(projected, base_logits, strength)

    def _product(self, projected: dict[str, Tensor], base_logits: Tensor, strength: Tensor) -> Tensor:
        """Return strength times (a - 1) z_base + b f_tuned - c f_untuned.

        Of distributions f = log q = z_base + log(q / p_base), up to a number a position, which changes nothing.
        """
        signed = {"delta": self.tuned_weight, "tuned": self.tuned_weight, "untuned": -self.untuned_weight}
        change = None
        for name, of_name in projected.items():
            scale = strength * signed[name]
            change = of_name.mul_(scale) if change is None else change.addcmul_(of_name, scale)
        if change is None:
            change = torch.zeros_like(base_logits)
        from_base = 0 if self.of_logit_delta else math.fsum([signed[name] for name in projected])
        base = self.base_weight - 1 + from_base
        return change if base == 0 else change.addcmul_(finite(base_logits), strength * base)

    def _mixture(self, projected: dict[str, Tensor], base_logits: Tensor, strength: Tensor) -> Tensor:
        """Return log((1 - s) p_base + s q_tuned) - log p_base at the donor's share s = alpha b / (a + b)."""
        if not projected:
            return torch.zeros_like(base_logits)
        share = (strength * (self.tuned_weight / (self.base_weight + self.tuned_weight))).clamp(0.0, 1.0)
        return torch.logaddexp((1 - share).log(), projected["tuned"].add_(share.log()))

    def save(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        write_atomically(path, (json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def as_dict(self) -> dict[str, str | float | bool]:
        """Return the JSON form."""
        return {
            "method": self.method.value,
            "form": self.form.value,
            "base_weight": self.base_weight,
            "tuned_weight": self.tuned_weight,
            "untuned_weight": self.untuned_weight,
            "fitted": self.fitted,
        }

    @classmethod
    def from_dict(cls, fields: Any) -> Combination:
        """Read the JSON form. Weights that a file gives count as fitted, unless it says otherwise.

        Raises:
            VocabridgeError: It is not a combination.
        """
        try:
            fitted = fields.get("fitted", True)
            if not isinstance(fitted, bool):
                raise TypeError(f"fitted is true or false, not {fitted!r}")
            weights = {name: float(fields[name]) for name in ("base_weight", "tuned_weight", "untuned_weight")}
            return cls(ProjectionMethod(fields["method"]), **weights, form=Form(fields["form"]), fitted=fitted)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VocabridgeError(
                f"that is not a combination ({error}); one has method, form, base_weight, tuned_weight and "
                "untuned_weight, and may have fitted"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Combination:
        """Read what `save` wrote, or the combination in a report of `vocabridge eval`.

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


UNFITTED = Combination(base_weight=0.45, tuned_weight=0.75, untuned_weight=0.1, fitted=False)
"""What a value source steers with until weights are fitted: near all fits, where (1, 1, 1) is far from them."""


def projected_scores(
    method: ProjectionMethod,
    projection: Projection,
    base: BaseDistribution,
    predictions: ResolvedPredictions,
    names: tuple[str, ...],
) -> dict[str, Tensor]:
    """Project scores onto the target vocabulary; those of one method share the base's distribution on the source's.

    Args:
        method: How scores change vocabulary.
        projection: From the source vocabulary to the target's.
        base: The base model's prediction.
        predictions: The value source's.
        names: Which scores, in this order: those of a change of logits, or those of distributions.

    Returns:
        By name, the change of the base's logits or log(q / p_base), finite, (n, |T|), in memory of its own.
    """
    if not names:
        return {}
    found = [getattr(predictions.scores, name) for name in names]
    assert all(score is not None for score in found), "the value source did not compute what the combination requires"
    implementation, scores = METHODS[method], torch.stack(found)
    if implementation.of_logit_delta:
        projected = implementation.project(projection, scores, base, None)
    else:
        projected = implementation.project(projection, scores.softmax(-1), base, predictions.split)
    return {name: projected[i] for i, name in enumerate(names)}  # unbind's views could not be written to
