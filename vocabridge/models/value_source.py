"""Value sources: pairs of small models that predict a change of logits, z_post = z_source + z_delta.

There are two kinds with one interface, `ValueSource`. In both, two small models of one family read the same tokens:

    ValueNetwork   untuned (frozen) and value:  delta = value,           tuned = untuned + value
    ExpertPair     untuned and tuned:           delta = tuned - untuned, no training at all

The `Scheme` of a value network decides what it reads of its source model (`joint_forward`). Sources: for the value
network Lu et al., "Transferable Post-training via Inverse Value Learning", arXiv 2410.21027; for the expert pair Liu et
al., "Tuning Language Models by Proxy", arXiv 2401.08565.
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
    """The predictions of a value source at some positions: logits over the source vocabulary, (..., |S|) each.

    Attributes:
        delta: The change of logits; None if it was not computed.
        tuned: The logits of the tuned model, which include the change; None if they were not computed.
        untuned: The logits of the untuned model; None if they were not computed.
    """

    delta: Tensor | None = None
    tuned: Tensor | None = None
    untuned: Tensor | None = None

    @property
    def distributions(self) -> list[Tensor]:
        """The logits of the tuned and of the untuned model, without those that were not computed."""
        return [logits for logits in (self.tuned, self.untuned) if logits is not None]


class ValueSource(nn.Module, ABC):
    """Two small models of one vocabulary, and the three `Scores` that their logits determine.

    Attributes:
        vocabulary: The source vocabulary, as wide as the models' logits.
        models: The models by name; `joint_forward.run` runs them with transformers' arguments.
        name: Where it came from, for people only.
    """

    def __init__(self, vocabulary: Vocabulary, models: Mapping[str, nn.Module], name: str) -> None:
        """Keep the two models."""
        super().__init__()
        self.vocabulary = vocabulary
        self.models = nn.ModuleDict(models)
        self.name = name

    @abstractmethod
    def required_models(self, scores: Collection[str]) -> set[str]:
        """Return the names of the models that have to run to compute these fields of `Scores`."""

    @abstractmethod
    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """Compute the scores that the logits of these models, by name and float32 (..., |S|), determine."""
