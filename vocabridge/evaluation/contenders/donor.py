"""Donor: the small tuned model alone, in its own vocabulary."""

from __future__ import annotations

from vocabridge.evaluation.contenders import definition
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import EvaluatedModel, evaluated_donor


class Definition(definition.Definition[definition.Setting]):
    """The small tuned model alone, in its own vocabulary: what a bridge has to beat."""

    label = "donor alone"
    required_models = frozenset({"steerings"})
    setting_type = definition.Setting
    has_base_tokens = False

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require one value source; see `Definition.missing`."""
        return definition.needs_one_source(pool)

    def make(self, inputs: definition.Inputs, setting: definition.Setting) -> EvaluatedModel:
        """Load the value source; see `Definition.make`."""
        (source,) = inputs.pool.value_sources()
        return evaluated_donor(self.label, source)
