"""Base: the base model as it is."""

from __future__ import annotations

from vocabridge.evaluation.contenders import definition as contenders
from vocabridge.evaluation.scoring import EvaluatedModel, of_model


class Definition(contenders.Definition[contenders.Setting]):
    """The base model as it is."""

    label = "base"
    required_models = frozenset({"base"})
    setting_type = contenders.Setting

    def make(self, inputs: contenders.Inputs, setting: contenders.Setting) -> EvaluatedModel:
        """Load the base; see `Definition.make`."""
        base = inputs.pool.base()
        return of_model(self.label, base.model, base.vocabulary)
