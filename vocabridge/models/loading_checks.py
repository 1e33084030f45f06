"""What is asked of a loaded model before it is used: it has all weights of its files, and they are numbers."""

from __future__ import annotations

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

_NAMED = 3

_FLOATS = {"F64", "F32", "F16", "BF16"}
"""The dtypes of weights, as safetensors calls them."""


def check_loaded(
    what: str, model: PreTrainedModel, report: Mapping[str, Collection[Any]], files: Iterable[Path]
) -> None:
    """Check that a model has the weights of its files, and that these are its weights.

    Args:
        what: What was loaded, for people.
        model: The model.
        report: transformers' loading info.
        files: The files with its weights.

    Raises:
        VocabridgeError: As `check_keys` and `check_stored_dtypes`; or the files hold output embeddings although the
            configuration ties them to the input embeddings, and programs differ in which they take.
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
    """Checks that a checkpoint held what a model needs, and nothing else.

    Args:
        what: What was loaded, for people.
        expected: What it should be, with its article.
        report: transformers' loading info; keys that a class declares ignorable are in none of its entries.

    Raises:
        VocabridgeError: Keys are missing or unexpected, or a tensor has another shape.
    """
    mismatched = [
        f"{name} {tuple(there)}, not {tuple(here)}" for name, there, here in report.get("mismatched_keys", ())
    ]
    found = {
        "lacks": report.get("missing_keys", ()),
        "has unknown": report.get("unexpected_keys", ()),
        "has of another shape": mismatched,
    }
    said = [f"{verb} {_some(names)}" for verb, names in found.items() if names]
    said += [str(message) for message in report.get("error_msgs", ())]
    if said:
        raise VocabridgeError(
            f"{what} does not hold the weights of {expected}: it {'; it '.join(said)}; save or download it again, "
            "under the names that transformers gives its tensors"
        )


def check_finite(what: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Checks that weights are numbers, neither NaN nor infinite.

    A sum is NaN or infinite if a term is, and takes a tenth of the time of looking at each: 0.04 s for 500 MB.

    Raises:
        VocabridgeError: Some are not; the message names the tensors.
    """
    floating = [(name, one.detach()) for name, one in tensors if one.is_floating_point() and not one.is_meta]
    sums = [(one if one.element_size() > 1 else one.bfloat16()).sum().float().cpu() for _, one in floating]
    if not sums or torch.stack(sums).isfinite().all():
        return
    doubtful = [pair for pair, total in zip(floating, sums, strict=True) if not total.isfinite()]
    bad = [name for name, one in doubtful if not (one if one.element_size() > 1 else one.bfloat16()).isfinite().all()]
    if bad:
        raise VocabridgeError(
            f"{what} has weights that are NaN or infinite as {floating[0][1].dtype}: {_some(bad)}; save or download it "
            "again, or load it in a wider dtype"
        )


def is_untied(model: PreTrainedModel) -> bool:
    """Whether a model whose configuration ties its output embeddings has others than its input embeddings."""
    config = model.config.get_text_config()
    ties = getattr(config, "tie_word_embeddings", False) and getattr(model, "_tied_weights_keys", None)
    pair = [getattr(part, "weight", None) for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    return bool(ties) and all(isinstance(weight, Tensor) for weight in pair) and pair[0] is not pair[1]


def check_stored_dtypes(what: str, files: Iterable[Path]) -> None:
    """Check that safetensors files hold weights as floats, as nothing else is a weight without its scale.

    Args:
        what: What they belong to, for people.
        files: The files; those of another format are passed over.

    Raises:
        VocabridgeError: Weights are stored as whole numbers or in 8 bits; the message names the tensors.
    """
    coarse: dict[str, str] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
            coarse |= {n: d for n, d in dtypes.items() if n.endswith(("weight", "bias")) and d not in _FLOATS}
    if coarse:
        raise VocabridgeError(
            f"{what} stores weights as {', '.join(sorted(set(coarse.values())))}, without a quantization_config that "
            f"says what they mean: {_some(coarse)}; save them as floats, or add its quantization_config to config.json"
        )


def weights_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All tensors that a model's file holds, each once, by name."""
    found = {id(tensor): (name, tensor) for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return list(reversed(found.values()))


def check_configs(folder: str, revision: str | None = None) -> None:
    """Check config.json and generation_config.json, the latter of which transformers ignores where it cannot read it.

    Args:
        folder: A model's folder, or a hub id, whose files in the hub's cache are checked.
        revision: Of a hub id.

    Raises:
        VocabridgeError: One cannot be read.
    """
    if (path := file_of(folder, CONFIG_NAME, revision)) is not None:
        read_config(path)
    if (path := file_of(folder, GENERATION_CONFIG_NAME, revision)) is not None:
        values = read_config(path)
        try:
            GenerationConfig.from_dict(values)
        except Exception as error:  # of values that are of the wrong type, anything
            reason = " ".join(str(error).split())[:200]
            raise VocabridgeError(f"{path} is damaged ({reason}); download or save it again") from error


def _some(names: Collection[str]) -> str:
    """The first few names, in order."""
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
