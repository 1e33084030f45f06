"""Nudging: the donor predicts the next token where the base is unsure.

    p = q_donor where max p_base < t, else p_base

In Fei et al., arXiv 2410.09300, the donor writes the next word as text. Here its next-token distribution is projected
to the base's vocabulary, so that the result is a distribution, which has a likelihood and can be sampled from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.model import Bridge
from vocabridge.evaluation.contenders import definition
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import EvaluatedModel, evaluated_model
from vocabridge.models.examples import Example, tokenize_scored
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.utils.progress import Progress, no_progress

PROJECTED_DONOR = Combination(ProjectionMethod.INFORMED, base_weight=0.0, tuned_weight=1.0, untuned_weight=0.0)
"""The combination of a bridge that nudges."""

_THRESHOLDS = np.round(np.arange(0.0, 1.01, 0.05), 2)


@dataclass(frozen=True)
class Nudging(SteeringLimits):
    """Switches the donor off where the base is sure; for a combination that consists of the donor alone.

    Attributes:
        sure: The base predicts where its most likely token has at least this probability.
    """

    sure: float = 0.4

    def gate(self, p_base: Tensor) -> Tensor:
        """See `SteeringLimits.gate`."""
        return (p_base.amax(-1, keepdim=True) < self.sure).to(p_base.dtype)


@dataclass(frozen=True)
class NudgingSetting(definition.Setting):
    """The setting of nudging.

    Attributes:
        threshold: The donor predicts where the base's most likely token has a lower probability than this.
    """

    threshold: float = 0.4

    def as_dict(self) -> dict[str, Any]:
        """See `Setting.as_dict`."""
        return {"threshold": self.threshold}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NudgingSetting:
        """See `Setting.from_dict`."""
        return cls(values["threshold"])

    @property
    def summary(self) -> str:
        """See `Setting.summary`."""
        return f"threshold {self.threshold:.2f}"


class Definition(definition.Definition[NudgingSetting]):
    """The donor's prediction where the base is unsure, projected as for the bridge."""

    label = "nudging"
    required_models = frozenset({"base", "steerings"})
    setting_type = NudgingSetting
    used_settings = frozenset({"alignment", "validation"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require one value source and validation items; see `Definition.missing`."""
        return definition.needs_one_source(pool) or (None if validation else "--validation")

    def bridge(self, inputs: definition.Inputs) -> Bridge:
        """Return the projected donor as a bridge."""
        bridge = Bridge(inputs.pool.base(), [inputs.pool.steering()])
        bridge.steering.combination = PROJECTED_DONOR
        return bridge

    def choose(self, inputs: definition.Inputs) -> NudgingSetting:
        """Choose the threshold; see `Definition.choose`."""
        return NudgingSetting(fit_threshold(self.bridge(inputs), inputs.held_out, progress=inputs.progress))

    def make(self, inputs: definition.Inputs, setting: NudgingSetting) -> EvaluatedModel:
        """Gate the projected donor by the threshold; see `Definition.make`."""
        bridge = self.bridge(inputs)
        bridge.limits = Nudging(sure=setting.threshold)
        return evaluated_model(self.label, bridge, bridge.vocabulary)


@torch.no_grad()
def fit_threshold(bridge: Bridge, examples: Sequence[Example], *, progress: Progress = no_progress) -> float:
    """Return the threshold among 0, 0.05, ... 1 with the lowest loss on the responses of some examples.

    Args:
        bridge: The projected donor.
        examples: Validation items.
        progress: Called after every example.
    """
    losses = np.zeros(len(_THRESHOLDS))
    for number, example in enumerate(examples, start=1):
        tokens = tokenize_scored(example, bridge.vocabulary)
        ids, truth = (
            torch.tensor(part, device=bridge.device) for part in (tokens.ids[:-1], tokens.ids[tokens.first :])
        )
        log_p, log_q = (
            model(input_ids=ids[None], use_cache=False, logits_to_keep=len(truth)).logits[0].float().log_softmax(-1)
            for model in (bridge.base, bridge)
        )
        base_log_p, donor_log_p = (
            log_probs.gather(1, truth[:, None])[:, 0].cpu().numpy() for log_probs in (log_p, log_q)
        )
        best = log_p.amax(-1).exp().cpu().numpy()
        losses -= np.where(best < _THRESHOLDS[:, None], donor_log_p, base_log_p).sum(-1)
        progress(number, len(examples), "fitting the threshold of nudging")
    return float(_THRESHOLDS[losses.argmin()])
