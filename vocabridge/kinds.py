"""What an evaluation can compare: everything that one may do with a big base and a small tuned model."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """A kind of contender; `lineup` makes them.

    Attributes:
        BASE: The base model as it is.
        DONOR: The small tuned model alone, in its own vocabulary.
        BRIDGE: The base steered by the small model, with vocabridge's carries.
        EXACT: The same without projection, over bytes; slow, so measured only where it is asked for.
        MIXTURE: A mixture of the base's and the donor's probabilities, by the static carry and the text as it stands.
        NUDGING: Where the base is unsure, the donor speaks in its place.
        CONTRAST: Proxy-tuning's sum at weights (1, 1, 1), by the static carry and the text as it stands.
        CONTROL: The base with a value network of its own vocabulary, so that nothing is carried.
        CEILING: The base fine-tuned itself.
    """

    BASE = "base"
    DONOR = "donor"
    BRIDGE = "bridge"
    EXACT = "exact"
    MIXTURE = "mixture"
    NUDGING = "nudging"
    CONTRAST = "contrast"
    CONTROL = "control"
    CEILING = "ceiling"

    @property
    def label(self) -> str:
        """The name in tables and records."""
        names = {
            Kind.DONOR: "donor alone",
            Kind.EXACT: "exact bridge",
            Kind.CONTRAST: "contrast pair",
            Kind.CONTROL: "same-vocabulary control",
        }
        return names.get(self, self.value)
