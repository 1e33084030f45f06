"""What a value network learns from one batch: the sums of which a step's loss is made.

    z = z_base + z_delta        (over a base of another tokenizer z_base + (W @ z_delta - k), see `bases`)
    nats = sum over learned tokens of -log softmax(z)[token]

A regularizer holds the change of logits back:

    l1         mean over the vocabulary of |z_delta|, summed over the learned tokens
    released   l1 as the code of Lu et al. (arXiv 2410.21027) has it: weight 1 always, mean over all positions of a
               batch on one device, prompt and padding included

What is trained is the value network; its bases stand beside it. Logits are made at the positions that need them only.
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
from vocabridge.training.collator import IGNORED

_AT_ONCE = 2**26
"""Logits that are made at the same time: float32, some ten tensors of this size with their gradients."""


_LINEAR = METHODS[ProjectionMethod.LINEAR]


class TrainingObjective(nn.Module):
    """What a value network learns from a batch. Its parameters are the value network's; the base has none here."""

    accepts_loss_kwargs = True  # to the Trainer: the loss is divided by the tokens of the whole step

    def __init__(self, network: ValueNetwork, regularizer: Regularizer, others: Sequence[TrainingBase] = ()) -> None:
        """Takes a network to train, on its own source model and others."""
        super().__init__()
        self.value = network.value
        small = LoadedModel("", "", network.source_model, network.vocabulary)
        # Plain objects, not modules of this one, so that they are neither wrapped nor saved.
        self.bases = (TrainingBase.of(small, network.vocabulary), *others)
        across = [number for number, base in enumerate(self.bases) if base.projection is not None]
        self.sides = {base: side for side, base in enumerate(across)}  # which side of a batch is in a base's tokens
        self.regularizer = regularizer

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        sides: Sequence[Mapping[str, Tensor]] = (),
        base: int = 0,
    ) -> dict[str, Tensor]:
        """Sums over the learned tokens of a batch.

        Args:
            input_ids: Tokens, (batch, n), padded on the right.
            position_ids: The place of each in its own text, (batch, n).
            labels: The same tokens, -100 where they are not learned.
            sides: The three in the tokens of each base of another tokenizer, (batch, m), and `behind`, as in `Side`.
            base: Which of the bases.

        Returns:
            nats: Cross-entropy of z_base + z_delta.
            regularizer: The regularizer.
            norm: |z_delta|_1 / |V|, without gradient, as is all below.
            changed: How often the likeliest token is another than the base's.
            tokens: How many tokens are learned.
        """
        chosen, side = self.bases[base], self.sides.get(base)
        read = dict(sides[side]) if side is not None else {"input_ids": input_ids, "position_ids": position_ids}
        labels, behind = read.pop("labels", labels), read.pop("behind", None)
        outputs, unembed = chosen.outputs(**read)
        learned = labels[:, 1:] != IGNORED  # position i predicts token i + 1
        kept, taken = outputs[:, :-1][learned], (outputs, unembed)
        if side is not None and self.value.scheme.takes_base:  # a cascade reads its source model, as in a bridge
            taken = self.bases[0].outputs(input_ids, position_ids)
        inputs = self.value.inputs(input_ids, *taken)
        hidden = self.value.hidden(**inputs, position_ids=position_ids, use_cache=False)
        row, at = learned.nonzero(as_tuple=True)
        states = hidden[row, at if behind is None else behind[row, at]]
        tokens = labels[:, 1:][learned]
        at_once = max(1, _AT_ONCE // chosen.vocabulary.size)
        parts = list(zip(states.split(at_once), kept.split(at_once), tokens.split(at_once), strict=True))
        if len(parts) == 1:
            sums = self._sums(chosen, unembed, *parts[0])
        else:  # logits are not kept for the gradients but made again
            sums = sum(checkpoint(self._sums, chosen, unembed, *part, use_reentrant=False) for part in parts)
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
        """Sums over k learned tokens: cross-entropy, size and change of the likeliest, (3,).

        Args:
            base: Which base.
            unembed: Makes logits of the base's outputs; None if these are logits.
            states: The value network's hidden states, (k, d).
            outputs: The base's, (k, ...): hidden states, or logits.
            tokens: Those that are learned, (k,).
        """
        with torch.no_grad():
            z_base = (outputs if unembed is None else unembed(outputs)).float()
        z_delta = self.value.unembed(states).float()
        if base.projection is not None:
            with torch.autocast(z_delta.device.type, enabled=False):  # a projection is float32
                z_delta = _LINEAR.project(base.projection, z_delta, BaseDistribution(z_base, z_base.softmax(-1)), None)
        z = z_base + z_delta
        return torch.stack(
            [
                functional.cross_entropy(z, tokens, reduction="sum"),
                z_delta.abs().mean(-1).sum(),
                (z.argmax(-1) != z_base.argmax(-1)).sum().float(),
            ]
        )
