"""Base: the base model without steering."""

from __future__ import annotations

from vocabridge.evaluation.contenders import definition as contenders
from vocabridge.evaluation.scoring import EvaluatedModel, evaluated_model


class Definition(contenders.Definition[contenders.Setting]):
    """The base model without steering."""

    label = "base"
    required_models = frozenset({"base"})
    setting_type = contenders.Setting

    def make(self, inputs: contenders.Inputs, setting: contenders.Setting) -> EvaluatedModel:
        """Load the base; see `Definition.make`."""
        base = inputs.pool.base()
        return evaluated_model(self.label, base.model, base.vocabulary)
