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
    """A value source whose change of logits is a tuned model's logits minus those of the same model untuned.

    Both models must make the same tokens of any text. Where the roles of their control tokens differ, the tuned model's
    are used. Rows that only one of the models has are cut.

    Attributes:
        tuned_vocabulary: The tuned model's own vocabulary, as wide as its logits.
    """

    def __init__(self, tuned: LoadedModel, untuned: LoadedModel) -> None:
        """Pair two models.

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
        cut = {name: tensor if tensor.shape[-1] <= size else tensor[..., :size] for name, tensor in logits.items()}
        tuned, untuned = cut.get("tuned"), cut.get("untuned")
        delta = None if tuned is None or untuned is None else tuned - untuned
        return Scores(delta=delta, tuned=tuned, untuned=untuned)


def _shared_vocabulary(tuned: LoadedModel, untuned: LoadedModel) -> Vocabulary:
    """Return the tuned model's vocabulary cut to the rows that both models have, and log which roles differ."""
    tuned_roles, untuned_roles = tuned.vocabulary.roles, untuned.vocabulary.roles
    differing = [role for role, i in tuned_roles.items() if role != "pad" and untuned_roles.get(role, i) != i]
    if differing:
        logger.info(
            "%s and %s differ in the %s token; that of %s is used.",
            tuned.name,
            untuned.name,
            ", ".join(differing),
            tuned.name,
        )
    vocabulary = tuned.vocabulary.resized(min(tuned.vocabulary.size, untuned.vocabulary.size))
    if lost := [role for role in tuned_roles if role != "pad" and role not in vocabulary.roles]:
        logger.warning(
            "%s has no %s token, so that of %s is left out; tune a model that has the token already.",
            untuned.name,
            ", ".join(lost),
            tuned.name,
        )
    return vocabulary
