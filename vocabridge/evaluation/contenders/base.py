"""Base: the base model without steering."""

from __future__ import annotations

from vocabridge.evaluation.contenders import definition
from vocabridge.evaluation.scoring import EvaluatedModel, evaluated_model


class Definition(definition.Definition[definition.Setting]):
    """The base model without steering."""

    label = "base"
    required_models = frozenset({"base"})
    setting_type = definition.Setting

    def make(self, inputs: definition.Inputs, setting: definition.Setting) -> EvaluatedModel:
        """Load the base; see `Definition.make`."""
        base = inputs.pool.base()
        return evaluated_model(self.label, base.model, base.vocabulary)
