"""Ceiling: the base fine-tuned itself, or with a value network that was trained on it."""

from __future__ import annotations

from vocabridge.evaluation.contenders import definition as contenders
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import EvaluatedModel, of_model, of_source
from vocabridge.models.loading import LoadedModel


class Definition(contenders.Definition[contenders.Setting]):
    """The base fine-tuned itself."""

    label = "ceiling"
    required_models = frozenset({"ceiling"})
    setting_type = contenders.Setting
    used_settings = frozenset({"ceiling"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Need a ceiling; see `Definition.missing`."""
        return "--ceiling" if pool.config.ceiling is None else None

    def make(self, inputs: contenders.Inputs, setting: contenders.Setting) -> EvaluatedModel:
        """Load the model or the value network; see `Definition.make`."""
        loaded = inputs.pool.ceiling()
        if isinstance(loaded, LoadedModel):
            return of_model(self.label, loaded.model, loaded.vocabulary)
        return of_source(self.label, loaded)
