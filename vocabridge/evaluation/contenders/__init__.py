"""The contenders of an evaluation: ways to use a base and a value source, one file each.

    base          p_base
    donor         the small tuned model, in its own vocabulary
    bridge        the best combination over methods and forms, or a saved bridge
    byte-level    the bridge's combination, over bytes
    mixture       (1 - s) p_base + s C p_donor
    nudging       q_donor where max p_base < t, else p_base; q_donor is projected as for the bridge
    proxy-tuning  log p_base + alpha log(C p_tuned / C p_untuned)
    control       the base with a value network of its own vocabulary; weights of its own, linear or static, as-is
    ceiling       the fine-tuned base, or the base with a value network trained on it

To add a contender, write `vocabridge/evaluation/contenders/NAME.py` with a class `Definition`, and add NAME to the enum
`Contender` in `vocabridge/options.py`. It derives from `SteeredDefinition` (`bridge_setting`) if the contender is a
bridge, else from `Definition` (`definition`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vocabridge.evaluation.contenders.definition import Definition
from vocabridge.options import Contender

CONTENDERS: dict[Contender, Definition[Any]] = {
    name: import_module(f"{__name__}.{name.value.replace('-', '_')}").Definition() for name in Contender
}
"""The definitions by name. Each is an instance of the class `Definition` in the file with the contender's name."""


def label_of(contender: Contender) -> str:
    """Return the name of a contender in tables and records."""
    return CONTENDERS[contender].label


def measuring_order() -> list[Contender]:
    """Return all contenders in an order in which each model is loaded only once, and slow contenders come late.

    Contenders with the base alone are first, then those with the base and the value source, then those without base.
    """

    def rank(contender: Contender) -> tuple[bool, bool, bool]:
        needs = CONTENDERS[contender].required_models
        return "base" not in needs, ("steerings" in needs) == ("base" in needs), CONTENDERS[contender].is_slow

    return sorted(Contender, key=rank)
