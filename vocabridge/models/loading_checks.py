"""Checks of a loaded model before it is used: it has all weights of its files, all are finite, and it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from vocabridge.alignment import VocabridgeError
from vocabridge.models.checkpoint_files import file_of, read_config
from vocabridge.utils.oom import is_out_of_memory

_NAMES_SHOWN = 3
"""How many tensors an error names."""

_FLOATS = {"F64", "F32", "F16", "BF16"}
"""The dtypes of weights that are not quantized, by safetensors' names."""


def check_loaded(
    what: str, model: PreTrainedModel, report: Mapping[str, Collection[Any]], files: Iterable[Path]
) -> None:
    """Check that a model has the weights that its files hold, and no others.

    Args:
        what: The name of what was loaded, for the error.
        model: The model.
        report: transformers' loading info.
        files: The files with its weights.

    Raises:
        VocabridgeError: As in `check_keys` and `check_stored_dtypes`. Also if the files hold output embeddings that the
            configuration ties to the input embeddings, because programs differ in which of the two they use.
    """
    check_keys(what, f"a {type(model).__name__}", report)
    if is_untied(model):
        raise VocabridgeError(
            f"{what} has output embeddings of its own, but tie_word_embeddings in its config.json says that the input "
            "embeddings are used; set that to false, or remove the output embeddings from its weights"
        )
    if getattr(model.config, "quantization_config", None) is None:
        check_stored_dtypes(what, files)


def check_keys(what: str, expected: str, report: Mapping[str, Collection[Any]]) -> None:
    """Check that a checkpoint held the tensors that a model needs, and no others.

    Args:
        what: The name of what was loaded, for the error.
        expected: What it was loaded as, with an article, for the error.
        report: transformers' loading info, without the keys that the model class declares ignorable.

    Raises:
        VocabridgeError: Keys are missing or unexpected, or a tensor has another shape.
    """
    mismatched = [
        f"{name} {tuple(stored)}, not {tuple(needed)}" for name, stored, needed in report.get("mismatched_keys", ())
    ]
    tensors = {
        "lacks": report.get("missing_keys", ()),
        "has unknown": report.get("unexpected_keys", ()),
        "has of another shape": mismatched,
    }
    problems = [f"{verb} {_first_names(names)}" for verb, names in tensors.items() if names]
    problems += [str(message) for message in report.get("error_msgs", ())]
    if problems:
        raise VocabridgeError(
            f"{what} does not hold the weights of {expected}: it {'; it '.join(problems)}; save or download it again, "
            "under the names that transformers gives its tensors"
        )


def check_finite(what: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Check that weights are finite, neither NaN nor infinite.

    Each tensor is summed first, because its sum is NaN or infinite if any of its weights is. This takes a tenth of the
    time of checking each weight, 0.04 s for 500 MB. Only tensors with such a sum are checked weight by weight.

    Args:
        what: The name of what was loaded, for the error.
        tensors: The weights with their names.

    Raises:
        VocabridgeError: Some weights are not finite; the message names the tensors.
    """
    floating = [
        (name, tensor.detach()) for name, tensor in tensors if tensor.is_floating_point() and not tensor.is_meta
    ]
    sums = [_computable(tensor).sum().float().cpu() for _, tensor in floating]
    if not sums or torch.stack(sums).isfinite().all():
        return
    suspects = [pair for pair, total in zip(floating, sums, strict=True) if not total.isfinite()]
    not_finite = [name for name, tensor in suspects if not _computable(tensor).isfinite().all()]
    if not_finite:
        raise VocabridgeError(
            f"{what} has weights that are NaN or infinite as {floating[0][1].dtype}: {_first_names(not_finite)}; save "
            "or download it again, or load it in a wider dtype"
        )


def _computable(tensor: Tensor) -> Tensor:
    """Return a tensor in a dtype that torch computes in: 8-bit floats become bfloat16."""
    return tensor if tensor.element_size() > 1 else tensor.bfloat16()


def check_logits(model: PreTrainedModel, _inputs: object, output: Any) -> None:
    """Check that a forward has computed numbers, as a forward hook of `torch.nn.Module`.

    Finite weights do not ensure that: activations may overflow, which those of many models do in float16. Only the last
    position is looked at, because NaN spreads to it from any position that it attends to.

    Raises:
        VocabridgeError: Logits are NaN or infinite; -inf at some tokens is allowed.
    """
    logits = output.logits if hasattr(output, "logits") else output
    if isinstance(logits, Tensor) and logits.numel() and not logits.detach()[:, -1].amax().isfinite():
        raise VocabridgeError(
            f"{model.name_or_path} computes logits that are NaN or infinite as {model.dtype}; load it in another dtype "
            "(--dtype bfloat16 or float32), or check the numbers in its config.json"
        )


@torch.no_grad()
def check_forward(model: PreTrainedModel) -> None:
    """Run a model on one token, and let `check_logits` check every later forward.

    Some wrong values of a configuration make only the forward fail. One of a model of 270M parameters takes 0.05 s.

    Raises:
        VocabridgeError: The forward fails; the message names values of the configuration that may be the cause.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    try:
        model(input_ids=token, use_cache=True)
    except Exception as error:  # a wrong value can raise any exception
        if isinstance(error, VocabridgeError) or is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        suspects = " and ".join(_suspicious_values(model)) or "a value there"
        raise VocabridgeError(
            f"{model.name_or_path} cannot compute a token as {model.dtype} on {token.device} ({reason}); "
            f"correct its config.json, where {suspects} may be wrong, or download or save it again"
        ) from error
    model.register_forward_hook(check_logits)  # only now, because a text may never contain this token


def _suspicious_values(model: PreTrainedModel) -> list[str]:
    """List the values of a configuration that are null, 0 or negative, where the class has a positive default."""
    values, defaults = model.config.get_text_config().to_dict(), {}
    with contextlib.suppress(Exception):  # some classes have no defaults
        defaults = type(model.config.get_text_config())().to_dict()
    numbers = {name: default for name, default in defaults.items() if isinstance(default, int | float) and default > 0}
    return [
        f"{name}: {'null' if values[name] is None else values[name]}"
        for name in numbers
        if name in values
        and not name.endswith("_token_id")
        and (values[name] is None or (isinstance(values[name], int | float) and values[name] <= 0))
        and not isinstance(values[name], bool)
    ]


def is_untied(model: PreTrainedModel) -> bool:
    """Whether a model has output embeddings of its own although its configuration ties them to the input's."""
    config = model.config.get_text_config()
    ties = getattr(config, "tie_word_embeddings", False) and getattr(model, "_tied_weights_keys", None)
    pair = [getattr(part, "weight", None) for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    return bool(ties) and all(isinstance(weight, Tensor) for weight in pair) and pair[0] is not pair[1]


def check_stored_dtypes(what: str, files: Iterable[Path]) -> None:
    """Check that safetensors files hold weights as floats, because quantized weights mean nothing without a scale.

    Args:
        what: The name of what the files belong to, for the error.
        files: The files; those of another format are skipped.

    Raises:
        VocabridgeError: Weights are stored as integers or in 8 bits; the message names the tensors.
    """
    quantized: dict[str, str] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
            quantized |= {n: d for n, d in dtypes.items() if n.endswith(("weight", "bias")) and d not in _FLOATS}
    if quantized:
        raise VocabridgeError(
            f"{what} stores weights as {', '.join(sorted(set(quantized.values())))}, without a quantization_config "
            f"that says what they mean: {_first_names(quantized)}; save them as floats, or add its quantization_config "
            "to config.json"
        )


def weights_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """List a model's tensors with their names, each once: a tensor that modules share has the first of its names."""
    by_identity = {id(tensor): (name, tensor) for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return list(reversed(by_identity.values()))


def check_configs(folder: str, revision: str | None = None) -> None:
    """Check config.json and generation_config.json; transformers would silently ignore a damaged generation config.

    Args:
        folder: A model's folder, or a hub id, whose files in the hub's cache are checked.
        revision: The revision, for a hub id.

    Raises:
        VocabridgeError: A file cannot be read.
    """
    if (path := file_of(folder, CONFIG_NAME, revision)) is not None:
        read_config(path)
    if (path := file_of(folder, GENERATION_CONFIG_NAME, revision)) is not None:
        values = read_config(path)
        try:
            GenerationConfig.from_dict(values)
        except Exception as error:  # values of a wrong type can raise any exception
            reason = " ".join(str(error).split())[:200]
            raise VocabridgeError(f"{path} is damaged ({reason}); download or save it again") from error


def _first_names(names: Collection[str]) -> str:
    """Join the first few names in alphabetical order, and count the others."""
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
