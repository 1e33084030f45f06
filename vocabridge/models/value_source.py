"""Value sources: small models that say how a distribution should change, z_post = z_base + z_delta.

Two kinds, one interface (`ValueSource`). Both are a pair of small models of one family along the same tokens:

    ValueNetwork   base (frozen) and value:   delta = value,           tuned = base + value, untuned = base
    ContrastPair   untuned and tuned:         delta = tuned - untuned, no training at all

What a value network reads of its base is its `Scheme` (`connection`). Source: Lu et al., "Transferable Post-training
via Inverse Value Learning", arXiv 2410.21027; for the pair Liu et al., "Tuning Language Models by Proxy", arXiv
2401.08565.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vocabridge.alignment import Vocabulary
from vocabridge.models.loading import LoadedModel

if TYPE_CHECKING:
    from vocabridge.projection.lookahead import LookaheadSplit

logger = logging.getLogger("vocabridge")


@dataclass(frozen=True)
class Scores:
    """What a value source says at some positions; logits over the source vocabulary, each of one shape (..., |S|).

    Attributes:
        delta: The change of logits, or None where nobody asked.
        tuned: The donor's own logits, delta included, or None.
        untuned: The donor's logits without the delta, or None.
        ahead: What it says after some of its tokens, of the donors that are there; None if nobody asked.
        image: The base's distribution on the source vocabulary, where look-ahead has made it already.
    """

    delta: Tensor | None = None
    tuned: Tensor | None = None
    untuned: Tensor | None = None
    ahead: LookaheadSplit | None = None
    image: Tensor | None = None

    @property
    def donors(self) -> list[Tensor]:
        """The tuned and the untuned donor's logits, those that are there."""
        return [logits for logits in (self.tuned, self.untuned) if logits is not None]


class ValueSource(nn.Module, ABC):
    """Two small models of one vocabulary, and the three quantities that come from them.

    Attributes:
        vocabulary: The source vocabulary, as wide as the models' logits.
        models: The models by role; `connection.run` runs them with transformers' arguments.
        name: Where it came from, for people only.
    """

    def __init__(self, vocabulary: Vocabulary, models: Mapping[str, nn.Module], name: str) -> None:
        """Holds the pair."""
        super().__init__()
        self.vocabulary = vocabulary
        self.models = nn.ModuleDict(models)
        self.name = name

    @abstractmethod
    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """The models that have to run for these quantities."""

    @abstractmethod
    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """The quantities that these models' logits, float32 (..., |S|), determine."""


def _shared_vocabulary(tuned: LoadedModel, untuned: LoadedModel) -> Vocabulary:
    """Return the tuned model's vocabulary over the rows that both have; says in a line what differs."""
    own, other = tuned.vocabulary, untuned.vocabulary
    differing = [role for role, i in own.roles.items() if role != "pad" and other.roles.get(role, i) != i]
    if differing:
        logger.info(
            "%s and %s differ in the %s token: that of %s is used.",
            tuned.name,
            untuned.name,
            ", ".join(differing),
            tuned.name,
        )
    vocabulary = own.resized(min(own.size, other.size))
    if lost := [role for role in own.roles if role != "pad" and role not in vocabulary.roles]:
        logger.warning(
            "%s has no %s token, so the one of %s is left out; tune a model whose tokens both have.",
            untuned.name,
            ", ".join(lost),
            tuned.name,
        )
    return vocabulary
