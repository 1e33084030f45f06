"""The bases that a value network is trained on: its own, and others that keep it from fitting itself to the one.

    its own, or another of its tokenizer    z = z_base + z_delta              at every learned token
    one of another tokenizer                z = z_base + (W @ z_delta - k)    where both tokenizers have a boundary

Steps have them in turn. Over a base of another tokenizer the value network trains for the very job that it does in a
bridge: the gradient runs through the projection. Where its own tokens do not end it has nothing to say (policy `skip`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.data import corpus_files
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.projection.projection import Projection
from vocabridge.training.dataset import Side, TrainingText


@dataclass(frozen=True)
class TrainingBase:
    """A base that a value network is trained on, and that learns nothing itself; its owner freezes it.

    Attributes:
        model: The model.
        vocabulary: Its own.
        projection: From the value network's vocabulary to its own; None if these are the same.
        whole: Whether its logits come from its whole forward: it does more to them than unembed hidden states.
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    projection: Projection | None
    whole: bool

    @classmethod
    def of(cls, loaded: LoadedModel, source: Vocabulary) -> TrainingBase:
        """Make a base of a loaded model, which stays as it is; the alignment comes by way of the cache.

        Args:
            loaded: The model.
            source: The vocabulary of the value networks.
        """
        projection = None
        if _rows(loaded.vocabulary) != _rows(source):
            projection = Projection.of(align(source, loaded.vocabulary, corpus=corpus_files())).to(loaded.model.device)
        return cls(loaded.model, loaded.vocabulary, projection, _does_more(loaded.model))

    @torch.no_grad()
    def outputs(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, nn.Module | None]:
        """Return its predictions after each token: logits, or hidden states and what makes logits of them.

        The latter spares the logits that nobody needs.

        Returns:
            (batch, n, |T|) and None, or (batch, n, d) and the unembedding.
        """
        places = {"position_ids": position_ids, "use_cache": False}
        if self.whole:
            return self.model(input_ids=input_ids, **places).logits, None
        return self.model.base_model(
            input_ids=input_ids, **places
        ).last_hidden_state, self.model.get_output_embeddings()


def _rows(vocabulary: Vocabulary) -> tuple[str, int, dict[str, int]]:
    """What is equal where two vocabularies mean the same by each row; padding is never learned."""
    roles = {role: i for role, i in vocabulary.control_roles.items() if role != "pad"}
    return vocabulary.fingerprint, vocabulary.size, roles


def load_others(names: Sequence[str], source: Vocabulary, device: str) -> list[TrainingBase]:
    """Load bases by name, of any tokenizer, and freeze them.

    Raises:
        VocabridgeError: One cannot be loaded or aligned.
    """
    bases = [TrainingBase.of(load_model(name, device=device), source) for name in names]
    for base in bases:
        base.model.requires_grad_(False)
    return bases


def beside(
    texts: Sequence[TrainingText], source: Vocabulary, others: Sequence[TrainingText], target: Vocabulary
) -> list[Side]:
    """Training texts in the tokens of a base, and where the value network has read the same.

    Args:
        texts: In the value network's tokens.
        source: Its vocabulary.
        others: The same texts in the base's tokens.
        target: The base's vocabulary.

    Returns:
        One a text; learned are those of the base's tokens before which both tokenizers have a boundary.

    Raises:
        VocabridgeError: A text is not the same for both, as with chat templates of their own.
    """
    sides = []
    for number, (text, other) in enumerate(zip(texts, others, strict=True), start=1):
        if _bytes(text.ids, source) != _bytes(other.ids, target):
            raise VocabridgeError(
                f"text {number} of the data is not the same for {source.name} and {target.name}, so that neither can "
                "be trained on the other; give prompts and responses, or plain texts"
            )
        read, theirs = _read(text.ids, source), _read(other.ids, target)
        at = {end: i for i, end in reversed(list(enumerate(read)))}
        behind = [at.get(end, -1) for end in theirs]
        learns = [learns and j > 0 and behind[j - 1] >= 0 for j, learns in enumerate(other.learns)]
        sides.append(Side(other.ids, learns, behind))
    return sides


def _bytes(ids: Sequence[int], vocabulary: Vocabulary) -> bytes:
    return b"".join(vocabulary.spell(ids))


def _read(ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """How many bytes have been read after each token; a token without bytes counts one, the bos token none."""
    begin = set(vocabulary.bos_ids)
    total, ends = 0, []
    for i, data in zip(ids, vocabulary.spell(ids), strict=True):
        total += len(data) if vocabulary.token_bytes[i] is not None else i not in begin
        ends.append(total)
    return ends


@torch.no_grad()
def _does_more(model: PreTrainedModel) -> bool:
    """Whether logits are more than an unembedding, such as capped (Gemma 2) or scaled (Cohere, Granite)."""
    ids = torch.arange(4, device=model.device)[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return not torch.equal(model(input_ids=ids, use_cache=False).logits, model.get_output_embeddings()(hidden))
