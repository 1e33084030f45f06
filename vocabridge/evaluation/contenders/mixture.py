"""Mixture: (1 - s) p_base + s C p_donor, the text cut as it stands."""

from __future__ import annotations

from vocabridge.evaluation.contenders import bridge_setting as contenders
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.options import Form, ProjectionMethod


class Definition(contenders.SteeredDefinition):
    """An ensemble of the base and the donor, as one would make it without vocabridge's methods."""

    label = "mixture"
    used_settings = frozenset({"alignment", "validation"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Need one value source and validation items; see `Definition.missing`."""
        return super().missing(pool, validation=validation) or (None if validation else "--validation")

    def choose(self, inputs: Inputs) -> contenders.BridgeSetting:
        """Fit the donor's share s; see `Definition.choose`."""
        return contenders.choose_setting(
            inputs, self.bridge(inputs), methods=[ProjectionMethod.STATIC], form=Form.MIXTURE
        )
