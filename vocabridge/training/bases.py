"""The base models that a value network is trained on: its source model, and others that keep it from overfitting to it.

    source model, or a base of the same tokenizer    z = z_base + z_delta              at every learned token
    base of another tokenizer                        z = z_base + (R @ z_delta - k)    at common token boundaries

The bases take turns, one per step. With a base of another tokenizer, the gradient passes through the projection, so the
value network is trained for its use in a bridge. Tokens of such a base are learned only where a token of the value
network ends as well (as with the policy `skip`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.data import corpus_files
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.projection.projection import Projection
from vocabridge.training.dataset import AlignedText, TrainingText


@dataclass(frozen=True)
class TrainingBase:
    """A base model that a value network is trained on. Its weights are not trained; the caller freezes them.

    Attributes:
        model: The base model.
        vocabulary: Vocabulary of the base model.
        projection: Projection from the value network's vocabulary to the base's; None if they are equal.
        transforms_logits: Whether the model does more than unembed the hidden states, such as cap the logits, so that
            the logits have to come from its complete forward.
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    projection: Projection | None
    transforms_logits: bool

    @classmethod
    def of(cls, loaded: LoadedModel, source: Vocabulary) -> TrainingBase:
        """Make a training base of a loaded model, without a change to the model; the alignment is cached.

        Args:
            loaded: The base model.
            source: Vocabulary of the value network.
        """
        projection = None
        if _row_meanings(loaded.vocabulary) != _row_meanings(source):
            projection = Projection.of(align(source, loaded.vocabulary, corpus=corpus_files())).to(loaded.model.device)
        return cls(loaded.model, loaded.vocabulary, projection, _transforms_logits(loaded.model))

    @torch.no_grad()
    def outputs(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, nn.Module | None]:
        """Run the base model; return its logits, or its hidden states with the unembedding.

        With hidden states, the caller computes logits only at the positions that it needs.

        Returns:
            Logits (batch, n, |T|) and None, or hidden states (batch, n, d) and the unembedding.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if self.transforms_logits:
            return self.model(**inputs).logits, None
        return self.model.base_model(**inputs).last_hidden_state, self.model.get_output_embeddings()


def _row_meanings(vocabulary: Vocabulary) -> tuple[str, int, dict[str, int]]:
    """Return a key that two vocabularies share if their rows mean the same, except padding, which is not learned."""
    roles = {role: i for role, i in vocabulary.control_roles.items() if role != "pad"}
    return vocabulary.fingerprint, vocabulary.size, roles


def load_other_bases(names: Sequence[str], source: Vocabulary, device: str) -> list[TrainingBase]:
    """Load base models by name, of any tokenizer, and freeze them.

    Raises:
        VocabridgeError: A model cannot be loaded, or its vocabulary cannot be aligned.
    """
    bases = [TrainingBase.of(load_model(name, device=device), source) for name in names]
    for base in bases:
        base.model.requires_grad_(False)
    return bases


def align_texts(
    texts: Sequence[TrainingText], source: Vocabulary, others: Sequence[TrainingText], target: Vocabulary
) -> list[AlignedText]:
    """Align training texts in a base's tokens with the same texts in the value network's tokens.

    Args:
        texts: The texts in the value network's tokens.
        source: Vocabulary of the value network.
        others: The same texts in the base's tokens.
        target: Vocabulary of the base.

    Returns:
        An aligned text for each text. Of the base's learned tokens, it keeps those in front of which both tokenizers
        have a boundary.

    Raises:
        VocabridgeError: The bytes of a text differ between the models, for example because of their chat templates.
    """
    aligned = []
    for number, (text, other) in enumerate(zip(texts, others, strict=True), start=1):
        if _bytes(text.ids, source) != _bytes(other.ids, target):
            raise VocabridgeError(
                f"text {number} of the data is not the same for {source.name} and {target.name}, so that neither can "
                "be trained on the other; give prompts and responses, or plain texts"
            )
        # Of several source tokens that end at the same byte, the first counts.
        source_at = {end: i for i, end in reversed(list(enumerate(_ends(text.ids, source))))}
        source_indices = [source_at.get(end, -1) for end in _ends(other.ids, target)]
        learned = [learned and j > 0 and source_indices[j - 1] >= 0 for j, learned in enumerate(other.learned)]
        aligned.append(AlignedText(other.ids, learned, source_indices))
    return aligned


def _bytes(ids: Sequence[int], vocabulary: Vocabulary) -> bytes:
    return b"".join(vocabulary.spell(ids))


def _ends(ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Return the byte at which each token ends; a token without bytes counts as one byte, the bos token as none."""
    bos_ids = set(vocabulary.bos_ids)
    total, ends = 0, []
    for i, data in zip(ids, vocabulary.spell(ids), strict=True):
        total += len(data) if vocabulary.token_bytes[i] is not None else i not in bos_ids
        ends.append(total)
    return ends


@torch.no_grad()
def _transforms_logits(model: PreTrainedModel) -> bool:
    """Tell whether a model transforms the unembedded logits: caps (Gemma 2) or scales them (Cohere, Granite)."""
    ids = torch.arange(4, device=model.device)[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return not torch.equal(model(input_ids=ids, use_cache=False).logits, model.get_output_embeddings()(hidden))
