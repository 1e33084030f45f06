"""The trainable half of a value network: a causal language model whose output is a change of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabridge.models.joint_forward import input_embeddings
from vocabridge.options import Scheme

if TYPE_CHECKING:
    pass


class DeltaModel(nn.Module):
    """A causal language model whose logits are a change of logits: z_delta = U P h.

    h is the last hidden state of the model's trunk, U its own unembedding, and P a square matrix that starts at
    zero, so that training starts from z_post = z_base exactly, and costs d^2 weights instead of another |S| x d.
    """

    def __init__(self, model: PreTrainedModel, scheme: Scheme = Scheme.RESIDUAL) -> None:
        """Wraps a model; its parameters become the value network's initialization.

        Args:
            model: A causal language model of width d.
            scheme: What it reads.
        """
        super().__init__()
        self.model = model
        self.scheme = scheme
        width = model.get_output_embeddings().weight.shape[1]
        self.projection = nn.Linear(width, width, bias=False, dtype=torch.float32, device=model.device)
        nn.init.zeros_(self.projection.weight)

    @property
    def takes_logits_of(self) -> str | None:
        """The model of its value source whose logits it is to be given; see `joint_forward.run`."""
        return "untuned" if self.scheme.takes_base else None

    def inputs(self, input_ids: Tensor, said: Tensor | None, unembed: nn.Module | None = None) -> dict[str, Tensor]:
        """What the trunk reads along some tokens, as an argument of `hidden`.

        Args:
            input_ids: Tokens, (batch, n).
            said: What the base says after each: logits (batch, n, |S|). Only cascades need it.
            unembed: In place of logits, `said` is the base's last hidden states, which this makes into logits.
        """
        if not self.scheme.takes_base:
            return {"input_ids": input_ids}
        assert said is not None, "a cascade reads what its base says"
        embedding = cast(nn.Embedding, self.model.get_input_embeddings())
        return {"inputs_embeds": input_embeddings(self.scheme, embedding, input_ids, said, unembed)}

    def hidden(self, **inputs: Any) -> Tensor:
        """The trunk's last hidden states, (batch, n, d); arguments as transformers' `forward` takes them."""
        return self.model.base_model(**inputs).last_hidden_state

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d) to changes of logits (..., |S|)."""
        head = self.model.get_output_embeddings()
        return head(self.projection(hidden.to(self.projection.weight.dtype)).to(head.weight.dtype))

    def forward(
        self,
        input_ids: Tensor,
        *,
        logits_to_keep: int | Tensor = 0,
        taken_logits: Tensor | None = None,
        use_cache: bool = False,
        **inputs: Any,
    ) -> DeltaOutput:
        """Changes of logits at the last `logits_to_keep` positions (0: all), or at these, (batch, k, |S|).

        A cascade needs `taken_logits`, the base's after each token, (batch, n, |S|). The other arguments, a cache among
        them, are the trunk's.
        """
        hidden = self.hidden(**self.inputs(input_ids, taken_logits), use_cache=use_cache, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return DeltaOutput(logits=self.unembed(hidden[:, kept]))

    @property
    def config(self) -> Any:
        """The trunk's configuration."""
        return self.model.config


@dataclass(frozen=True)
class DeltaOutput:
    """The output of a `DeltaModel`, named as transformers names it.

    Attributes:
        logits: (batch, k, |S|).
    """

    logits: Tensor
