"""Proxy-tuning: log p_base + alpha log(C p_tuned / C p_untuned), with the boundary policy as-is.

Liu et al., arXiv 2401.08565, with the static projection, because the original needs a common vocabulary.
"""

from __future__ import annotations

from vocabridge.evaluation.contenders import bridge_setting
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination


class Definition(bridge_setting.SteeredDefinition):
    """The sum of proxy-tuning across vocabularies, without fitted weights."""

    label = "proxy-tuning"
    used_settings = frozenset({"alignment", "validation"})

    def choose(self, inputs: Inputs) -> bridge_setting.BridgeSetting:
        """Choose alpha if there are validation items; otherwise alpha is 1; see `Definition.choose`."""
        alphas = bridge_setting.ALPHAS if inputs.held_out else (1.0,)
        given = Combination(ProjectionMethod.STATIC)
        return bridge_setting.choose_setting(inputs, self.bridge(inputs), given=given, alphas=alphas)
