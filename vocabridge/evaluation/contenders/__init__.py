"""The contenders of an evaluation: what can be made of a base and a value source, one file each.

    base       p_base                                    donor         the small model in its own vocabulary
    bridge     the best fit over methods and forms, or   mixture       (1 - s) p_base + s C p_donor
               a saved bridge as it is
    byte-level the same combination over bytes           proxy-tuning  log p_base + alpha log(C p_tuned / C p_untuned)
    nudging    q_donor where max p_base < t, else p_base, with q_donor projected as the bridge projects it
    control    the bridge's combination, of a value network that has the base's own vocabulary
    ceiling    the base fine-tuned, or with a value network trained on it

To add a contender, write `vocabridge/evaluation/contenders/NAME.py` with a class `Definition`, and add NAME to the enum
`Contender` in `vocabridge/options.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vocabridge.evaluation.contenders.definition import Definition
from vocabridge.options import Contender

CONTENDERS: dict[Contender, Definition[Any]] = {
    name: import_module(f"{__name__}.{name.value.replace('-', '_')}").Definition() for name in Contender
}
"""The contenders by name: each is the class `Definition` of the file that is called like the name."""


def label_of(contender: Contender) -> str:
    """Return the name of a contender in tables and records."""
    return CONTENDERS[contender].label


def in_turn() -> list[Contender]:
    """Return all contenders in the order in which the fewest models are loaded twice, and the slow ones late.

    First come those of the base alone, then those of the base and the value source, then those without the base.
    """

    def rank(contender: Contender) -> tuple[bool, bool, bool]:
        needs = CONTENDERS[contender].required_models
        return "base" not in needs, ("steerings" in needs) == ("base" in needs), CONTENDERS[contender].is_slow

    return sorted(Contender, key=rank)
