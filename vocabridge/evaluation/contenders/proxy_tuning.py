"""Proxy-tuning: log p_base + alpha log(C p_tuned / C p_untuned), the text cut as it stands.

Liu et al., arXiv 2401.08565, projected as one would without vocabridge.
"""

from __future__ import annotations

from vocabridge.evaluation.contenders import bridge_setting as contenders
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination


class Definition(contenders.SteeredDefinition):
    """Proxy-tuning's sum across vocabularies, without fitted weights."""

    label = "proxy-tuning"
    used_settings = frozenset({"alignment", "validation"})

    def choose(self, inputs: Inputs) -> contenders.BridgeSetting:
        """Choose alpha, where there are validation items; else it is 1; see `Definition.choose`."""
        alphas = contenders.ALPHAS if inputs.held_out else (1.0,)
        given = Combination(ProjectionMethod.STATIC)
        return contenders.choose_setting(inputs, self.bridge(inputs), given=given, alphas=alphas)
