"""Control: the base with a value network that has the base's own vocabulary, so that nothing is projected."""

from __future__ import annotations

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.contenders import bridge_setting as contenders
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import in_one_vocabulary
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination


class Definition(contenders.SteeredDefinition):
    """The bridge's combination, of a value network of the base's own vocabulary."""

    label = "same-vocabulary control"
    required_models = frozenset({"base", "control"})
    used_settings = frozenset({"control", "validation"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Need a control; see `Definition.missing`."""
        return "--control" if pool.config.control is None else None

    def steerings(self, inputs: Inputs) -> list[Steering]:
        """Steer by the control, whose logits are added.

        Raises:
            VocabridgeError: It has another vocabulary.
        """
        base, source = inputs.pool.base(), inputs.pool.control()
        if source.vocabulary.fingerprint != base.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{inputs.config.control} has another tokenizer than {base.name}; a control is a value network of the "
                "base's own"
            )
        return [in_one_vocabulary(source)]

    def choose(self, inputs: Inputs) -> contenders.BridgeSetting:
        """Fit the weights, where there are validation items; see `Definition.choose`."""
        given = None if inputs.held_out else Combination(ProjectionMethod.LINEAR)
        methods = (ProjectionMethod.LINEAR, ProjectionMethod.STATIC)
        return contenders.choose_setting(inputs, self.bridge(inputs), given=given, methods=methods)
