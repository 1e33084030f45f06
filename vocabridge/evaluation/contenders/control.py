"""Control: the base with a value network that has the base's vocabulary, so that nothing is projected."""

from __future__ import annotations

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.contenders import bridge_setting
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import same_vocabulary_steering
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination


class Definition(bridge_setting.SteeredDefinition):
    """The base with a value network of its vocabulary, with weights of its own, linear or static, and policy as-is."""

    label = "same-vocabulary control"
    required_models = frozenset({"base", "control"})
    used_settings = frozenset({"control", "validation"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require a control; see `Definition.missing`."""
        return "--control" if pool.config.control is None else None

    def steerings(self, inputs: Inputs) -> list[Steering]:
        """Return the steering of the control, whose logits are added.

        Raises:
            VocabridgeError: The control has another vocabulary than the base.
        """
        base, source = inputs.pool.base(), inputs.pool.control()
        if source.vocabulary.fingerprint != base.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{inputs.config.control} has another tokenizer than {base.name}; for --control, name a value network "
                "with the tokenizer of the base"
            )
        return [same_vocabulary_steering(source)]

    def choose(self, inputs: Inputs) -> bridge_setting.BridgeSetting:
        """Fit the weights if there are validation items; see `Definition.choose`."""
        given = None if inputs.held_out else Combination(ProjectionMethod.LINEAR)
        methods = (ProjectionMethod.LINEAR, ProjectionMethod.STATIC)
        return bridge_setting.choose_setting(inputs, self.bridge(inputs), given=given, methods=methods)
