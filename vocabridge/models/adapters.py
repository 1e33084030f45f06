"""PEFT adapters as models: each is found by name and merged into the weights of the model that it adapts.

An adapter's folder holds `adapter_config.json`, which names the adapted model, and `adapter_model.safetensors` or
`.bin`. The merged model has the class, the modules and the size of the adapted model; only its weights differ.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, find_adapter_config_file

from vocabridge.alignment import VocabridgeError
from vocabridge.models.checkpoint_files import ADAPTERS, model_weight_files, read_config
from vocabridge.models.loading_checks import check_keys, check_stored_dtypes


class Adapted(NamedTuple):
    """The name of the model that an adapter adapts, and the revision if the name is a hub id."""

    name: str
    revision: str | None = None


def find_adapted(folder: str, revision: str | None = None, *, offline: bool = True) -> Adapted | None:
    """Return the model that an adapter adapts; None if this folder or hub id holds no adapter.

    Args:
        folder: A folder or a hub id.
        revision: The revision, for a hub id.
        offline: Whether to look only in the local cache of the hub.

    Raises:
        VocabridgeError: The adapter's files do not name the model that it adapts, or the same folder holds a model.
    """
    try:
        path = find_adapter_config_file(folder, revision=revision, local_files_only=offline)
    except OSError:  # no such repository; loading the model raises the error that says so
        return None
    if path is None:
        return None
    config = read_config(Path(path))
    name, base_revision = config.get("base_model_name_or_path"), config.get("revision")
    if not name or not isinstance(name, str) or not isinstance(base_revision, str | None):
        raise VocabridgeError(f'{path} does not name the model that the adapter adapts; set "base_model_name_or_path"')
    if Path(folder).is_dir() and model_weight_files(Path(folder)):
        raise VocabridgeError(
            f"{folder} holds a model and an adapter ({ADAPTER_CONFIG_NAME}); move one of them to a folder of its own"
        )
    return Adapted(name, base_revision)


def add_adapter(model: PreTrainedModel, folder: str, revision: str | None = None) -> PreTrainedModel:
    """Merge an adapter into a model's weights.

    Args:
        model: The model that the adapter adapts; it is changed in place.
        folder: The adapter's folder, or its hub id.
        revision: The revision, for a hub id.

    Raises:
        VocabridgeError: peft is not installed, or the adapter cannot be read, is of a type that cannot be merged, or
            does not fit the model.
    """
    if importlib.util.find_spec("peft") is None:
        raise VocabridgeError(f"{folder} is a PEFT adapter, which needs peft; run: pip install 'vocabridge[train]'")
    from peft import PeftConfig, PeftModel

    hub_options: dict[str, Any] = {} if Path(folder).is_dir() else {"revision": revision}
    if Path(folder).is_dir() and not any((Path(folder) / name).is_file() for name in ADAPTERS):
        raise VocabridgeError(f"{folder} holds none of {' and '.join(ADAPTERS)}; save or download the adapter again")
    try:
        config = PeftConfig.from_pretrained(folder, **hub_options)
        if config.is_prompt_learning:
            raise VocabridgeError(
                f"{folder} is an adapter of type {config.peft_type.value}, which is not part of the weights; train a "
                "LoRA adapter"
            )
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tied weights, and about names that transformers has renamed
            adapted = PeftModel(model, config)
            if model.get_input_embeddings() is not embedding or model.get_output_embeddings() is not head:
                _untie(model, embedding, head)
            report = adapted.load_adapter(folder, "default", torch_device="cpu", **hub_options)
            merged = cast(PreTrainedModel, adapted.merge_and_unload())
    except VocabridgeError:
        raise
    except Exception as error:  # peft, torch, safetensors and the hub's client raise many kinds for damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise VocabridgeError(
            f"the adapter {folder} cannot be merged into {model.name_or_path} ({reason}); check that it was trained on "
            "this model"
        ) from error
    if Path(folder).is_dir():
        files = [path for name in ADAPTERS if (path := Path(folder) / name).is_file()][:1]
        check_stored_dtypes(f"the adapter {folder}", files)
    check_keys(
        f"the adapter {folder}",
        f"an adapter of {model.name_or_path}",
        {"missing_keys": report.missing_keys, "unexpected_keys": report.unexpected_keys},
    )
    return merged.requires_grad_(True)


def _untie(model: PreTrainedModel, embedding: nn.Module, head: nn.Module) -> None:
    """Give the head weights of its own, because the adapter changes the embedding and the head differently."""
    if isinstance(tied := head.weight, nn.Parameter) and tied is embedding.weight:
        head.weight = nn.Parameter(tied.detach().clone())
        model.config.tie_word_embeddings = False
