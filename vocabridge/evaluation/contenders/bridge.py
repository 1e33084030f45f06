"""Bridge: the base steered by the value source, with the best fit over methods and forms; or a saved bridge."""

from __future__ import annotations

from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.contenders import bridge_setting
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.projection.combination import UNFITTED, Combination


class Definition(bridge_setting.SteeredDefinition):
    """The bridge: its setting is the best one on the validation items; a saved bridge keeps its own."""

    label = "bridge"
    used_settings = frozenset({"policy", "alpha", "combination", "alignment"})
    used_if_chosen = frozenset({"validation"})

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Return None, because a bridge may have any number of value sources; see `Definition.missing`."""
        return None

    def steerings(self, inputs: Inputs) -> list[Steering]:
        """Return the steering of the value source, or all steerings of the saved bridge."""
        return super().steerings(inputs) if inputs.pool.saved is None else inputs.pool.steerings()

    def choose(self, inputs: Inputs) -> bridge_setting.BridgeSetting:
        """Fit the weights if none are given and there are validation items; see `Definition.choose`."""
        config, saved = inputs.config, inputs.pool.saved
        if saved is not None:
            return bridge_setting.BridgeSetting.of_saved(saved)
        given = None if config.combination is None else Combination.load(config.combination)
        if not inputs.held_out:
            given = given or UNFITTED
        policies, alphas = config.tried_policies, config.tried_alphas
        return bridge_setting.choose_setting(inputs, self.bridge(inputs), given=given, policies=policies, alphas=alphas)
