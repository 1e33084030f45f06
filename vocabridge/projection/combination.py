"""The combination of a base's and a value source's predictions: a projection method, a form and three weights.

    product   z = a z_base + b log q_tuned - c log q_untuned
    mixture   p = (a p_base + b q_tuned) / (a + b)

Here q is a distribution of a small model, projected onto the target vocabulary. With the weights (a, b, c), the product
(1, 1, 1) is the sum of logits of Lu et al. (arXiv 2410.21027) and of proxy-tuning (arXiv 2401.08565), (0, 1, 0) is the
projected donor alone, and (1, 1, 0) is a product of experts. A method that projects a change of logits has two weights,
z = a z_base + b delta_T. The mixture is the usual ensemble of two models.

`change` computes z - z_base at strength alpha. The strength multiplies the change of a product; in a mixture it
multiplies the donor's share. The changes of several value sources add up. At alpha = 0 the change is exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment import VocabridgeError
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
        method: The projection method.
        base_weight: a, the weight of the base model.
        tuned_weight: b, the weight of the tuned small model, or of the change of logits.
        untuned_weight: c, the weight of the untuned small model. Methods that project a change of logits do not use
            it, nor do mixtures.
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
        """Whether the method projects a change of logits; else it projects distributions."""
        return METHODS[self.method].of_logit_delta

    @property
    def required_scores(self) -> tuple[str, ...]:
        """Names of the fields of `Scores` that are used. A score whose weight is 0 is not computed."""
        if self.of_logit_delta:
            return ("delta",) if self.tuned_weight != 0 else ()
        weights = {"tuned": self.tuned_weight, "untuned": self.untuned_weight if self.form is Form.PRODUCT else 0}
        return tuple(name for name, weight in weights.items() if weight != 0)

    @property
    def _tuned_share(self) -> float:
        """The tuned model's share of a mixture at strength 1, b / (a + b)."""
        return self.tuned_weight / (self.base_weight + self.tuned_weight)

    def at(self, strength: float) -> Combination:
        """Return the combination whose effect at strength 1 is that of this one at the given strength."""
        if self.form is Form.MIXTURE:
            share = min(1.0, max(0.0, strength * self._tuned_share))
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
        """Return the change of the base's logits at n positions.

        The change is finite whatever the logits and the strength are. Where the strength is 0, it is exactly 0.

        Args:
            projection: The matrices from the source vocabulary to the target's.
            base_logits: The base model's logits, float32 (n, |T|).
            p_base: The softmax of `base_logits`.
            predictions: The value source's predictions, with the scores that `required_scores` names.
            strength: alpha; a tensor (n, 1) where it differs from position to position. The donor's share of a mixture
                is clamped to 0 and 1, so alpha < 0 has no effect and alpha > (a + b) / b gives the donor alone.

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

        f is the projected change of logits, or log q of a projected distribution. Up to a constant at each position,
        which changes no probability, log q = z_base + log(q / p_base).
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
        share = (strength * self._tuned_share).clamp(0.0, 1.0)
        return torch.logaddexp((1 - share).log(), projected["tuned"].add_(share.log()))

    def as_dict(self) -> dict[str, str | float | bool]:
        """Return the combination as a JSON object."""
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
        """Read the JSON object of `as_dict`. Without the key `fitted`, its weights count as fitted.

        Raises:
            VocabridgeError: The object is not a combination.
        """
        try:
            fitted = fields.get("fitted", True)
            if not isinstance(fitted, bool):
                raise TypeError(f"fitted is true or false, not {fitted!r}")
            weights = {name: float(fields[name]) for name in ("base_weight", "tuned_weight", "untuned_weight")}
            return cls(ProjectionMethod(fields["method"]), **weights, form=Form(fields["form"]), fitted=fitted)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VocabridgeError(
                f"that is not a combination ({error}); give an object with method, form, base_weight, tuned_weight and "
                "untuned_weight, and optionally fitted"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Combination:
        """Read the JSON object of `as_dict` from a file, or the combination in a report of `vocabridge eval`.

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
"""The combination of a value source until weights are fitted.

On four pairs it needs at most 2.3% more bits than a fitted product, and 15 to 21% fewer than (1, 1, 1)
(notes/2026-11-28-weights-without-a-fit.md).
"""


def projected_scores(
    method: ProjectionMethod,
    projection: Projection,
    base: BaseDistribution,
    predictions: ResolvedPredictions,
    names: tuple[str, ...],
) -> dict[str, Tensor]:
    """Project a value source's scores onto the target vocabulary, all with one product.

    Args:
        method: The projection method.
        projection: The matrices from the source vocabulary to the target's.
        base: The base model's prediction.
        predictions: The value source's predictions.
        names: Names of the scores: `delta` for a method of a change of logits, else `tuned` or `untuned` or both.

    Returns:
        By name, the change of the base's logits or log(q / p_base), finite, (n, |T|), in memory of its own.
    """
    if not names:
        return {}
    required = [getattr(predictions.scores, name) for name in names]
    assert all(score is not None for score in required), "the value source did not compute a score that is required"
    implementation, scores = METHODS[method], torch.stack(required)
    if implementation.of_logit_delta:
        projected = implementation.project(projection, scores, base, None)
    else:
        projected = implementation.project(projection, scores.softmax(-1), base, predictions.split)
    return {name: projected[i] for i, name in enumerate(names)}  # views of `unbind` cannot be written to
