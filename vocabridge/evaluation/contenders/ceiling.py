"""Ceiling: the fine-tuned base model, or the base model with a value network trained on it."""

from __future__ import annotations

from vocabridge.evaluation.contenders import definition
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import EvaluatedModel, evaluated_donor, evaluated_model
from vocabridge.models.loading import LoadedModel


class Definition(definition.Definition[definition.Setting]):
    """The fine-tuned base model."""

    label = "ceiling"
    required_models = frozenset({"ceiling"})
    setting_type = definition.Setting
    used_settings = frozenset({"ceiling"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require a ceiling; see `Definition.missing`."""
        return "--ceiling" if pool.config.ceiling is None else None

    def make(self, inputs: definition.Inputs, setting: definition.Setting) -> EvaluatedModel:
        """Load the model or the value network; see `Definition.make`."""
        loaded = inputs.pool.ceiling()
        if isinstance(loaded, LoadedModel):
            return evaluated_model(self.label, loaded.model, loaded.vocabulary)
        return evaluated_donor(self.label, loaded)
