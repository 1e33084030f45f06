"""Value sources: small models that say how a distribution should change, z_post = z_base + z_delta.

Two kinds, one interface (`ValueSource`). Both are a pair of small models of one family along the same tokens:

    ValueNetwork   untuned (frozen) and value:  delta = value,           tuned = untuned + value
    ExpertPair     untuned and tuned:           delta = tuned - untuned, no training at all

What a value network reads of its source model is its `Scheme` (`joint_forward`). Source: Lu et al., "Transferable
Post-training via Inverse Value Learning", arXiv 2410.21027; for the pair Liu et al., "Tuning Language Models by Proxy",
arXiv 2401.08565.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vocabridge.alignment import Vocabulary

logger = logging.getLogger("vocabridge")


@dataclass(frozen=True)
class Scores:
    """What a value source says at some positions; logits over the source vocabulary, each of one shape (..., |S|).

    Attributes:
        delta: The change of logits, or None where nobody asked.
        tuned: The donor's own logits, delta included, or None.
        untuned: The donor's logits without the delta, or None.
    """

    delta: Tensor | None = None
    tuned: Tensor | None = None
    untuned: Tensor | None = None

    @property
    def distributions(self) -> list[Tensor]:
        """The logits of the tuned and the untuned small model, those that were computed."""
        return [logits for logits in (self.tuned, self.untuned) if logits is not None]


class ValueSource(nn.Module, ABC):
    """Two small models of one vocabulary, and the three quantities that come from them.

    Attributes:
        vocabulary: The source vocabulary, as wide as the models' logits.
        models: The models by role; `joint_forward.run` runs them with transformers' arguments.
        name: Where it came from, for people only.
    """

    def __init__(self, vocabulary: Vocabulary, models: Mapping[str, nn.Module], name: str) -> None:
        """Holds the pair."""
        super().__init__()
        self.vocabulary = vocabulary
        self.models = nn.ModuleDict(models)
        self.name = name

    @abstractmethod
    def required_models(self, scores: Collection[str]) -> set[str]:
        """Return the names of the models that have to run for some fields of `Scores`."""

    @abstractmethod
    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """The quantities that these models' logits, float32 (..., |S|), determine."""
