"""The trainable half of a value network: a causal language model that outputs a change of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabridge.models.joint_forward import input_embeddings
from vocabridge.models.loading_checks import check_logits
from vocabridge.options import Scheme


class DeltaModel(nn.Module):
    """A causal language model that outputs a change of logits: z_delta = U P h.

    h is the last hidden state of the model's trunk, and U the model's own unembedding, (|S|, d). P is a square matrix
    that starts at zero, so training starts from z_post = z_source exactly. P has d^2 weights; a second unembedding
    would have |S| x d.
    """

    def __init__(self, model: PreTrainedModel, scheme: Scheme = Scheme.RESIDUAL) -> None:
        """Wrap a model; its parameters become the value network's initialization.

        Args:
            model: A causal language model of width d.
            scheme: What the value network reads.
        """
        super().__init__()
        self.model = model
        self.scheme = scheme
        width = model.get_output_embeddings().weight.shape[1]
        self.projection = nn.Linear(width, width, bias=False, dtype=torch.float32, device=model.device)
        nn.init.zeros_(self.projection.weight)

    @property
    def takes_logits_of(self) -> str | None:
        """The name of the model whose logits this one takes as input, or None; see `joint_forward.run`."""
        return "untuned" if self.scheme.takes_base else None

    def inputs(
        self, input_ids: Tensor, predictions: Tensor | None, unembed: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Return the trunk's input for some tokens, as keyword arguments of `hidden`.

        Args:
            input_ids: Tokens, (batch, n).
            predictions: The source model's logits after each token, (batch, n, |S|). Only cascades need them.
            unembed: If given, `predictions` holds hidden states instead, which this module turns into logits.
        """
        if not self.scheme.takes_base:
            return {"input_ids": input_ids}
        assert predictions is not None, "a cascade reads the predictions of its source model"
        embedding = cast(nn.Embedding, self.model.get_input_embeddings())
        return {"inputs_embeds": input_embeddings(self.scheme, embedding, input_ids, predictions, unembed)}

    def hidden(self, **inputs: Any) -> Tensor:
        """Return the trunk's last hidden states, (batch, n, d); arguments are those of transformers' `forward`."""
        return self.model.base_model(**inputs).last_hidden_state

    def unembed(self, hidden: Tensor) -> Tensor:
        """Turn hidden states (..., d) into changes of logits (..., |S|)."""
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
        """Return the changes of logits at k positions, (batch, k, |S|).

        Args:
            input_ids: Tokens, (batch, n).
            logits_to_keep: The last so many positions (0: all), or the indices of positions.
            taken_logits: The source model's logits after each token, (batch, n, |S|). Only cascades need them.
            use_cache: Whether the trunk keeps its keys and values.
            **inputs: Further arguments of the trunk, such as a cache.
        """
        hidden = self.hidden(**self.inputs(input_ids, taken_logits), use_cache=use_cache, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.unembed(hidden[:, kept])
        check_logits(self.model, None, logits)
        return DeltaOutput(logits=logits)

    @property
    def config(self) -> Any:
        """The trunk's configuration."""
        return self.model.config


@dataclass(frozen=True)
class DeltaOutput:
    """The output of a `DeltaModel`, with the name that transformers gives it.

    Attributes:
        logits: The changes of logits, (batch, k, |S|).
    """

    logits: Tensor
