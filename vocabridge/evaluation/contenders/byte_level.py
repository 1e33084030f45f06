"""Byte-level: the bridge's combination over bytes, so that nothing is projected; slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.byte_level.byte_lm import TOLERANCE
from vocabridge.evaluation.contenders import bridge, bridge_setting
from vocabridge.evaluation.contenders import definition as contenders
from vocabridge.evaluation.contenders.bridge_setting import SteeringSetting
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import ByteLevelModel, EvaluatedModel


@dataclass(frozen=True)
class ByteLevelSetting(contenders.Setting):
    """What a byte-level bridge is set to.

    Attributes:
        steerings: What each steering is set to; none has a policy.
        tolerance: The share of each model's mass that may be left out at a byte.
    """

    steerings: tuple[SteeringSetting, ...] = ()
    tolerance: float = TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """See `Setting.as_dict`."""
        return bridge_setting.together(self.steerings) | {"tolerance": self.tolerance}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ByteLevelSetting:
        """See `Setting.from_dict`."""
        return cls(bridge_setting.of_each(values), values["tolerance"])

    @property
    def summary(self) -> str:
        """See `Setting.summary`."""
        return "; ".join([*(steering.summary for steering in self.steerings), f"tolerance {self.tolerance:g}"])


class Definition(contenders.Definition[ByteLevelSetting]):
    """The bridge's combination and strength, of the same models, byte by byte."""

    label = "byte-level bridge"
    required_models = frozenset({"base", "steerings"})
    setting_type = ByteLevelSetting
    used_settings = frozenset({"alpha", "combination", "tolerance"})
    used_if_chosen = frozenset({"policy", "alignment", "validation"})
    is_slow = True
    answers_at_once = 1

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Need a bridge without limits; see `Definition.missing`."""
        limited = pool.saved is not None and pool.saved.has_limits
        return "a bridge without limits, which are of logits of tokens" if limited else None

    def choose(self, inputs: contenders.Inputs) -> ByteLevelSetting:
        """Take what the bridge is set to; see `Definition.choose`."""
        of_bridge = bridge.Definition().setting(inputs)
        tolerance = TOLERANCE if inputs.config.tolerance is None else inputs.config.tolerance
        return ByteLevelSetting(tuple(replace(one, policy=None) for one in of_bridge.steerings), tolerance)

    def make(self, inputs: contenders.Inputs, setting: ByteLevelSetting) -> EvaluatedModel:
        """Combine the models over bytes; see `Definition.make`."""
        steerings = [
            ByteLevelSteering(source, own.combination, own.strength)
            for source, own in zip(inputs.pool.value_sources(), setting.steerings, strict=True)
        ]
        model = ByteLevelBridge(inputs.pool.base(), steerings, tolerance=setting.tolerance)
        return ByteLevelModel(self.label, model)
