"""Expert pairs: a tuned small model and the same model untuned (proxy-tuning, arXiv 2401.08565)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_source import Scores, ValueSource, logger


class ExpertPair(ValueSource):
    """A tuned model minus the same model untuned.

    The two have to make the same tokens of any text. Where their control tokens have other roles, those of the tuned
    model hold; rows that only one of them has are cut.

    Attributes:
        tuned_vocabulary: The tuned model's own vocabulary, as wide as its logits.
    """

    def __init__(self, tuned: LoadedModel, untuned: LoadedModel) -> None:
        """Pairs two models.

        Raises:
            VocabridgeError: Their tokenizers differ.
        """
        if tuned.vocabulary.fingerprint != untuned.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{tuned.name} and {untuned.name} have different tokenizers; an expert pair is one model before and "
                "after tuning"
            )
        self.tuned_vocabulary = tuned.vocabulary
        super().__init__(
            _shared_vocabulary(tuned, untuned),
            {"tuned": tuned.model, "untuned": untuned.model},
            f"{tuned.name} - {untuned.name}",
        )

    @property
    def tuned(self) -> PreTrainedModel:
        """The tuned model."""
        return cast(PreTrainedModel, self.models["tuned"])

    def required_models(self, scores: Collection[str]) -> set[str]:
        """See `ValueSource.required_models`."""
        return {"tuned", "untuned"} if "delta" in scores else set(scores)

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        size = self.vocabulary.size
        shared = {name: one if one.shape[-1] <= size else one[..., :size] for name, one in logits.items()}
        tuned, untuned = shared.get("tuned"), shared.get("untuned")
        delta = None if tuned is None or untuned is None else tuned - untuned
        return Scores(delta=delta, tuned=tuned, untuned=untuned)


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
