"""The first k layers of a causal language model; its final norm and its unembedding stay.

A model of k layers costs what k layers cost: in time, in weights, and in its caches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vocabridge.alignment import VocabridgeError


def keep_layers(model: PreTrainedModel, layers: int) -> None:
    """Takes away all layers of a model but the first.

    Its configuration then is that of a model of so many layers, lists with an entry a layer included.

    Args:
        model: A causal language model whose trunk has its layers in a list `layers`.
        layers: How many to keep, 1 to all.

    Raises:
        VocabridgeError: There are not so many layers, or the architecture is built otherwise.
    """
    config: Any = model.config
    stack = getattr(model.base_model, "layers", None)
    depth = getattr(config, "num_hidden_layers", None)
    if not isinstance(stack, nn.ModuleList) or len(stack) != depth:
        raise VocabridgeError(
            f"{model.name_or_path} ({config.model_type}) has no list of layers that could be cut; use all of its layers"
        )
    if not 1 <= layers <= depth:
        raise VocabridgeError(
            f"{model.name_or_path} has {depth} layers, so its first {layers} cannot be had; use 1 to {depth}"
        )
    del stack[layers:]
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    if _shapes(model) != _shapes_of(config):
        raise VocabridgeError(
            f"{model.name_or_path} ({config.model_type}) has weights outside its layers that depend on how many these "
            "are; use all of its layers"
        )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shapes_of(config: Any) -> dict[str, torch.Size] | None:
    """The weights of a model with this configuration, without making any; None if there is no such model."""
    try:
        with torch.device("meta"):
            return _shapes(AutoModelForCausalLM.from_config(config))
    except (ValueError, TypeError, IndexError):
        return None
