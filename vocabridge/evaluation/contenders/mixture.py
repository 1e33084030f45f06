"""Mixture: (1 - s) p_base + s C p_donor, with the boundary policy as-is."""

from __future__ import annotations

from vocabridge.evaluation.contenders import bridge_setting
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.options import Form, ProjectionMethod


class Definition(bridge_setting.SteeredDefinition):
    """A plain ensemble of the base and the donor, without vocabridge's methods at token boundaries."""

    label = "mixture"
    used_settings = frozenset({"alignment", "validation"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require one value source and validation items; see `Definition.missing`."""
        return super().missing(pool, validation=validation) or (None if validation else "--validation")

    def choose(self, inputs: Inputs) -> bridge_setting.BridgeSetting:
        """Fit the donor's share s; see `Definition.choose`."""
        return bridge_setting.choose_setting(
            inputs, self.bridge(inputs), methods=[ProjectionMethod.STATIC], form=Form.MIXTURE
        )
