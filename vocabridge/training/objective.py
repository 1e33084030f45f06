"""The training objective of a value network: the sums over a batch that make up the loss of a step.

    z = z_base + z_delta        (for a base of another tokenizer z_base + (R @ z_delta - k), see `bases`)
    nats = sum over learned tokens of -log softmax(z)[token]

A regularizer limits the change of the logits:

    l1         mean over the vocabulary of |z_delta|, summed over the learned tokens
    released   l1 as in the released code of Lu et al. (arXiv 2410.21027): the weight is always 1, and the mean is over
               all positions of a batch on a device, including the prompt and the padding

Only the value network is trained. Logits are computed only at learned positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_network import ValueNetwork
from vocabridge.options import ProjectionMethod, Regularizer
from vocabridge.projection.methods import METHODS
from vocabridge.projection.methods.base import BaseDistribution
from vocabridge.training.bases import TrainingBase
from vocabridge.training.collator import IGNORE_INDEX

_MAX_LOGITS = 2**26
"""Number of logits that are computed at once; some ten float32 tensors of this size exist at a time, with gradients."""

_LINEAR = METHODS[ProjectionMethod.LINEAR]


class TrainingObjective(nn.Module):
    """The objective as a module, whose only parameters are those of the value network."""

    accepts_loss_kwargs = True  # tells the Trainer that the loss is divided by the learned tokens of the whole step

    def __init__(self, network: ValueNetwork, regularizer: Regularizer, others: Sequence[TrainingBase] = ()) -> None:
        """Initialize the objective.

        Args:
            network: The value network to train; its source model is the first base.
            regularizer: Term that limits the change of the logits.
            others: Further bases.
        """
        super().__init__()
        self.value = network.value
        source = LoadedModel("", "", network.source_model, network.vocabulary)
        # The bases are not submodules, so that the Trainer neither wraps nor saves them.
        self.bases = (TrainingBase.of(source, network.vocabulary), *others)
        projected = [number for number, base in enumerate(self.bases) if base.projection is not None]
        # For each base of another tokenizer, the index of its tokens among the aligned texts.
        self.aligned_index = {base: index for index, base in enumerate(projected)}
        self.regularizer = regularizer

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        aligned: Sequence[Mapping[str, Tensor]] = (),
        base: int = 0,
    ) -> dict[str, Tensor]:
        """Return sums over the learned tokens of a batch.

        Args:
            input_ids: Tokens in the value network's vocabulary, (batch, n), padded on the right.
            position_ids: Position of each token in its text, (batch, n).
            labels: The tokens again, with -100 for those that are not learned, (batch, n).
            aligned: For each base of another tokenizer, the same three tensors in its tokens, (batch, m), and
                `source_indices`, as in `AlignedText`.
            base: Index of the base to use.

        Returns:
            nats: Cross-entropy of z_base + z_delta, in nats.
            regularizer: The regularizer, without its weight.
            norm: |z_delta|_1 / |V|. This and the values below have no gradient.
            changed: Number of learned tokens at which the most likely token differs from the base's.
            tokens: Number of learned tokens.
        """
        training_base, index = self.bases[base], self.aligned_index.get(base)
        base_inputs = {"input_ids": input_ids, "position_ids": position_ids} if index is None else dict(aligned[index])
        labels, source_indices = base_inputs.pop("labels", labels), base_inputs.pop("source_indices", None)
        outputs, unembed = training_base.outputs(**base_inputs)
        learned = labels[:, 1:] != IGNORE_INDEX  # position i predicts token i + 1
        base_outputs, source_outputs = outputs[:, :-1][learned], (outputs, unembed)
        if index is not None and self.value.scheme.takes_base:  # a cascade reads its source model, as in a bridge
            source_outputs = self.bases[0].outputs(input_ids, position_ids)
        inputs = self.value.inputs(input_ids, *source_outputs)
        hidden = self.value.hidden(**inputs, position_ids=position_ids, use_cache=False)
        row, column = learned.nonzero(as_tuple=True)
        states = hidden[row, column if source_indices is None else source_indices[row, column]]
        tokens = labels[:, 1:][learned]
        size = max(1, _MAX_LOGITS // training_base.vocabulary.size)
        chunks = list(zip(states.split(size), base_outputs.split(size), tokens.split(size), strict=True))
        if len(chunks) == 1:
            sums = self._sums(training_base, unembed, *chunks[0])
        else:  # the backward pass recomputes the logits of a chunk
            sums = sum(checkpoint(self._sums, training_base, unembed, *chunk, use_reentrant=False) for chunk in chunks)
        nats, norm, changed = sums
        released = self.regularizer is Regularizer.RELEASED
        return {
            "nats": nats,
            "regularizer": self.value.unembed(hidden).float().abs().mean() if released else norm,
            "norm": norm.detach(),
            "changed": changed,
            "tokens": learned.sum().float(),
        }

    def _sums(
        self, base: TrainingBase, unembed: nn.Module | None, states: Tensor, outputs: Tensor, tokens: Tensor
    ) -> Tensor:
        """Return sums over k learned tokens: cross-entropy, |z_delta|_1 / |V| and changed most likely tokens, (3,).

        Args:
            base: The base.
            unembed: Unembedding of the base; None if `outputs` are logits.
            states: Hidden states of the value network, (k, d).
            outputs: Hidden states (k, d) or logits (k, |T|) of the base.
            tokens: The learned tokens, (k,).
        """
        with torch.no_grad():
            z_base = (outputs if unembed is None else unembed(outputs)).float()
        z_delta = self.value.unembed(states).float()
        if base.projection is not None:
            with torch.autocast(z_delta.device.type, enabled=False):  # a projection computes in float32
                z_delta = _LINEAR.project(base.projection, z_delta, BaseDistribution(z_base, z_base.softmax(-1)), None)
        z = z_base + z_delta
        return torch.stack(
            [
                functional.cross_entropy(z, tokens, reduction="sum"),
                z_delta.abs().mean(-1).sum(),
                (z.argmax(-1) != z_base.argmax(-1)).sum().float(),
            ]
        )
