"""Expert pairs: a tuned small model and the same model untuned (proxy-tuning, arXiv 2401.08565)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from torch import Tensor
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError
from vocabridge.models.loading import LoadedModel

if TYPE_CHECKING:
    pass
from vocabridge.models.value_source import Scores, ValueSource, _shared_vocabulary


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
                f"{tuned.name} and {untuned.name} have different tokenizers; a contrast pair is one model before and "
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

    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """See `ValueSource.needed`."""
        return {name for name, wanted in (("tuned", delta or tuned), ("untuned", delta or untuned)) if wanted}

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        size = self.vocabulary.size
        shared = {name: one if one.shape[-1] <= size else one[..., :size] for name, one in logits.items()}
        tuned, untuned = shared.get("tuned"), shared.get("untuned")
        delta = None if tuned is None or untuned is None else tuned - untuned
        return Scores(delta=delta, tuned=tuned, untuned=untuned)
