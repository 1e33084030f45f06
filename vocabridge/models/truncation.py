"""Cutting a causal language model to its first k layers; the final norm and the unembedding stay.

The cut model takes the time, the weights and the KV cache of k layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vocabridge.alignment import VocabridgeError


def keep_layers(model: PreTrainedModel, layers: int) -> None:
    """Remove all but the first layers of a model, in place.

    The configuration becomes that of the smaller model; its lists with one entry per layer are cut, too.

    Args:
        model: A causal language model whose trunk has its layers in a list `layers`.
        layers: How many layers to keep, from 1 to all of them.

    Raises:
        VocabridgeError: The model has fewer layers, or an architecture that cannot be cut.
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
            f"{model.name_or_path} has {depth} layers, so its first {layers} cannot be used; use 1 to {depth}"
        )
    del stack[layers:]
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    if _shapes(model) != _shapes_of(config):
        raise VocabridgeError(
            f"{model.name_or_path} ({config.model_type}) has weights outside its layers that depend on their number; "
            "use all of its layers"
        )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shapes_of(config: Any) -> dict[str, torch.Size] | None:
    """Return the shapes of a model with this configuration, without memory for it; None if it cannot be built."""
    try:
        with torch.device("meta"):
            return _shapes(AutoModelForCausalLM.from_config(config))
    except (ValueError, TypeError, IndexError):
        return None
