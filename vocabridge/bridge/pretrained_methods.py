"""A bridge's versions of the methods of transformers' `PreTrainedModel` and `GenerationMixin`.

A bridge holds several models, and a saved bridge refers to them by name. So many methods that treat one model's weights
would be wrong for it. Saving and loading call `save_bridge` and `load`. Questions about the base model are passed to
the base model. Moving to a device moves every model. Methods that would change weights or vocabularies raise an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from vocabridge.alignment import VocabridgeError
from vocabridge.models.loading import find_device

if TYPE_CHECKING:
    from vocabridge.bridge.model import Bridge

_LOADING = ("device", "device_map", "dtype", "value_device", "value_dtype")

_CHANGED = "a bridge does not change its models; change the model, save it, and make a bridge of the new one"
_TRAINED = "a bridge is not trained; train a value network with train_value_network, and make a bridge of it"
_SAVED = "a bridge is not a single checkpoint; save it with save_pretrained, and upload its folder with `hf upload`"
_SERVED = "a bridge does not support continuous batching; write texts with generate or vocabridge.stream"


def _refused(name: str, reason: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise VocabridgeError(f"{name}: {reason}")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Refuse: {reason}."
    return refuse


def _of_base(name: str) -> Callable[..., Any]:
    def ask(self: Bridge, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.base, name)(*args, **kwargs)

    ask.__name__ = ask.__qualname__ = name
    ask.__doc__ = "Do as the base model does."
    return ask


class PretrainedMethods(nn.Module):
    """The methods of `PreTrainedModel` and `GenerationMixin` that a bridge overrides."""

    def save_pretrained(self: Bridge, save_directory: str | Path, **settings: Any) -> None:  # type: ignore[misc]
        """Write the bridge as a folder, as `save_bridge` does.

        Args:
            save_directory: A new or empty folder, or a bridge's folder, which is replaced.
            **settings: Not supported; transformers has some for a model's own weights.

        Raises:
            VocabridgeError: As for `save_bridge`; or a setting is given.
        """
        from vocabridge.bridge.saving import save_bridge

        if settings:
            raise VocabridgeError(
                f"a bridge is saved without {', '.join(sorted(settings))}, because its models are referred to and not "
                "copied; give the folder only"
            )
        save_bridge(self, save_directory)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **place: Any) -> Bridge:
        """Load a bridge, as `load` does.

        Args:
            folder: A folder that `save_pretrained` or `vocabridge bridge` wrote.
            **place: device, dtype, device_map, value_device and value_dtype, as for `load`.

        Raises:
            VocabridgeError: As for `load`; or another argument is given.
        """
        from vocabridge.bridge.saving import load

        if unknown := sorted(place.keys() - set(_LOADING)):
            raise VocabridgeError(f"a bridge is loaded without {', '.join(unknown)}; it takes {', '.join(_LOADING)}")
        return load(folder, **place)

    def generate(self: Bridge, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        """Generate as transformers' `generate` does, from prompts that are ids.

        Raises:
            VocabridgeError: A prompt is given as embeddings, which no value source can read; or as for `forward`.
        """
        check_is_text(kwargs)
        ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        if isinstance(ids, Tensor):
            check_ids(ids, self.vocabulary.size)
        return super().generate(*args, **kwargs)

    def to(self: Bridge, *args: Any, **kwargs: Any) -> Bridge:  # type: ignore[misc]
        """Move every model to a device; arguments as for `torch.nn.Module.to`.

        Raises:
            VocabridgeError: The device does not exist, the base is spread over several devices, or a model would be
                cast to another dtype.
        """
        args = tuple(find_device(value) if isinstance(value, str) else value for value in args)
        if isinstance(device_name := kwargs.get("device"), str):
            kwargs["device"] = find_device(device_name)
        parsed: tuple[Any, ...] = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype, non_blocking, _ = parsed
        models = [self.base, *(model for steering in self.steerings for model in steering.source.models.values())]
        if dtype is not None and any(next(model.parameters()).dtype != dtype for model in models):
            raise VocabridgeError(
                "a bridge's models keep the dtype that they were loaded in, because an adapter is added to them in "
                f"that dtype; load the bridge again with dtype={dtype}"
            )
        if device is None:
            return self
        if len(set(getattr(self.base, "hf_device_map", {}).values())) > 1:
            raise VocabridgeError("the base model is spread over devices; load the bridge again with device= instead")
        nn.Module.to(self, find_device(str(device)), non_blocking=non_blocking)
        return self

    def cuda(self: Any, device: int | str | torch.device | None = None) -> Bridge:
        """Move every model to a GPU."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def cpu(self: Any) -> Bridge:
        """Move every model to the CPU."""
        return self.to("cpu")

    def half(self: Any) -> Bridge:
        """Do as `to(torch.float16)`."""
        return self.to(torch.float16)

    def bfloat16(self: Any) -> Bridge:
        """Do as `to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)

    def float(self: Any) -> Bridge:
        """Do as `to(torch.float32)`."""
        return self.to(torch.float32)

    def double(self: Any) -> Bridge:
        """Do as `to(torch.float64)`."""
        return self.to(torch.float64)

    def type(self: Any, dst_type: torch.dtype | str) -> Bridge:
        """Do as `to(dst_type)`."""
        return self.to(dst_type)


for _names, _reason in {
    ("push_to_hub", "save_distributed_checkpoint", "register_for_auto_class"): _SAVED,
    (
        "dequantize",
        "init_weights",
        "initialize_weights",
        "resize_position_embeddings",
        "resize_token_embeddings",
        "set_decoder",
        "set_encoder",
        "set_input_embeddings",
        "set_output_embeddings",
    ): _CHANGED,
    (
        "activation_checkpointing_enable",
        "active_adapters",
        "add_adapter",
        "delete_adapter",
        "disable_adapters",
        "enable_adapters",
        "enable_input_require_grads",
        "enable_peft_hotswap",
        "get_adapter_state_dict",
        "gradient_checkpointing_enable",
        "load_adapter",
        "set_adapter",
    ): _TRAINED,
    ("continuous_batching_context_manager", "generate_batch", "init_continuous_batching"): _SERVED,
}.items():
    for _name in _names:
        setattr(PretrainedMethods, _name, _refused(_name, _reason))

for _name in (
    "get_decoder",
    "get_encoder",
    "get_experts_implementation",
    "get_position_embeddings",
    "set_attn_implementation",
    "set_experts_implementation",
    "set_use_kernels",
):
    setattr(PretrainedMethods, _name, _of_base(_name))


def check_is_text(inputs: dict[str, Any]) -> None:
    """Check that the inputs of a forward or of `generate` hold no embeddings.

    Raises:
        VocabridgeError: There are embeddings.
    """
    if inputs.get("inputs_embeds") is not None:
        raise VocabridgeError("a bridge reads text, which inputs_embeds is not; give its tokens as input_ids")


def check_ids(ids: Tensor, size: int) -> None:
    """Check the ids that a forward reads.

    On another device than the CPU their values are not looked at, because that would make each step wait for it.

    Args:
        ids: The ids, (batch, n).
        size: The size of the vocabulary.

    Raises:
        VocabridgeError: There are no ids, they are not a batch, or one is not of the vocabulary.
    """
    if ids.dim() != 2 or ids.is_floating_point():
        raise VocabridgeError(
            f"input_ids is a {ids.dtype} of shape {tuple(ids.shape)}; give integers of shape (batch, number of tokens)"
        )
    if ids.numel() == 0:
        raise VocabridgeError("the prompt is empty; give at least one token as input_ids")
    if ids.device.type == "cpu":
        lowest, highest = (int(value) for value in ids.aminmax())
        if lowest < 0 or highest >= size:
            wrong = lowest if lowest < 0 else highest
            raise VocabridgeError(f"input_ids holds {wrong}, which is no id of the base; its ids are 0 to {size - 1}")
