"""Byte-level: the bridge's combination over bytes. Nothing is projected, and it is slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.byte_level.byte_lm import TOLERANCE
from vocabridge.evaluation.contenders import bridge, bridge_setting, definition
from vocabridge.evaluation.contenders.bridge_setting import SteeringSetting
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import ByteLevelModel, EvaluatedModel


@dataclass(frozen=True)
class ByteLevelSetting(definition.Setting):
    """The setting of a byte-level bridge.

    Attributes:
        steerings: The setting of each steering, without a policy.
        tolerance: The share of each model's probability that may be left out at a byte.
    """

    steerings: tuple[SteeringSetting, ...] = ()
    tolerance: float = TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """See `Setting.as_dict`."""
        return bridge_setting.settings_as_dict(self.steerings) | {"tolerance": self.tolerance}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ByteLevelSetting:
        """See `Setting.from_dict`."""
        return cls(bridge_setting.settings_from_dict(values), values["tolerance"])

    @property
    def summary(self) -> str:
        """See `Setting.summary`."""
        return "; ".join([*(steering.summary for steering in self.steerings), f"tolerance {self.tolerance:g}"])


class Definition(definition.Definition[ByteLevelSetting]):
    """The same models as the bridge's, with the same combination and strength, over bytes."""

    label = "byte-level bridge"
    required_models = frozenset({"base", "steerings"})
    setting_type = ByteLevelSetting
    used_settings = frozenset({"alpha", "combination", "tolerance"})
    used_if_chosen = frozenset({"policy", "alignment", "validation"})
    is_slow = True
    answers_at_once = 1

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require a bridge without limits; see `Definition.missing`."""
        has_limits = pool.saved is not None and pool.saved.has_limits
        return "a bridge without limits, because these apply to the probabilities of tokens" if has_limits else None

    def choose(self, inputs: definition.Inputs) -> ByteLevelSetting:
        """Use the setting of the bridge; see `Definition.choose`."""
        bridge_steerings = bridge.Definition().setting(inputs).steerings
        tolerance = TOLERANCE if inputs.config.tolerance is None else inputs.config.tolerance
        return ByteLevelSetting(tuple(replace(steering, policy=None) for steering in bridge_steerings), tolerance)

    def make(self, inputs: definition.Inputs, setting: ByteLevelSetting) -> EvaluatedModel:
        """Combine the models over bytes; see `Definition.make`."""
        steerings = [
            ByteLevelSteering(source, chosen.combination, chosen.strength)
            for source, chosen in zip(inputs.pool.value_sources(), setting.steerings, strict=True)
        ]
        model = ByteLevelBridge(inputs.pool.base(), steerings, tolerance=setting.tolerance)
        return ByteLevelModel(self.label, model)
