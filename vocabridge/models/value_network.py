"""Value networks on disk: begun from a pretrained small model, saved as what training changed, loaded again.

A folder holds `value_network.safetensors` (the LoRA adapter or all weights, and the matrix P, in bf16) and
`value_network.json` (the source model's name, its tokenizer's fingerprint, scheme and depth, the training config, and
the SHA-256 of the first file); `value_network_files` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vocabridge.alignment import VocabridgeError, write_atomically
from vocabridge.models.adapters import Adapted
from vocabridge.models.checkpoint_files import ADAPTERS
from vocabridge.models.delta_model import DeltaModel
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel, adapted_by, check_model, commit_of, load_model, load_weights
from vocabridge.models.truncation import keep_layers
from vocabridge.models.value_network_files import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    ValueNetworkConfig,
    check_network_files,
    is_value_network,
    network_folder,
    read_config,
    read_weights,
)
from vocabridge.models.value_source import Scores, ValueSource
from vocabridge.options import Initialization, Scheme
from vocabridge.utils.hashing import digest


def new_value_network(
    source: str,
    *,
    method: str,
    rank: int,
    scheme: Scheme = Scheme.RESIDUAL,
    layers: int | None = None,
    initialization: Initialization = Initialization.PRETRAINED,
    device: str = "cpu",
) -> ValueNetwork:
    """A value network at its start: a small model with a change of logits of zero.

    What is random in it comes from torch's generator, so `torch.manual_seed` fixes it.

    Args:
        source: The source model by name; it stays frozen.
        method: "lora" trains an adapter on every linear layer and P; "full" trains all weights and P.
        rank: The adapter's rank.
        scheme: What it reads of the source model.
        layers: It has the first so many layers of the source model; None for all.
        initialization: Whether it starts from the source model's weights.
        device: Where to put it.

    Raises:
        VocabridgeError: The model cannot be loaded, or not cut to so many layers; or an adapter is asked for on
            random weights.
    """
    if method == "lora" and initialization is Initialization.RANDOM:
        raise VocabridgeError(
            "an adapter changes pretrained weights, and random ones would stay random; train a value network that "
            "starts at random in full"
        )
    loaded = load_model(source, device=device)
    config = ValueNetworkConfig(
        source=source,
        fingerprint=loaded.vocabulary.fingerprint,
        method=method,
        rank=rank if method == "lora" else None,
        scheme=scheme,
        layers=layers,
        initialization=initialization,
    )
    value = _initial_delta_model(loaded, config)
    if initialization is Initialization.RANDOM:
        value = DeltaModel(_at_random(value.model), scheme)
    return ValueNetwork(loaded, value, config, source)


def save_value_network(network: ValueNetwork, folder: Path, training: Mapping[str, Any]) -> None:
    """Writes `value_network.safetensors` (what training changed, bf16) and `value_network.json`.

    Args:
        network: The trained network.
        folder: Made if absent.
        training: The training config and losses to record.

    Raises:
        VocabridgeError: The folder cannot be written.
    """
    value = network.value
    tensors = {f"projection.{name}": tensor for name, tensor in value.projection.state_dict().items()}
    trained = network.adapter or _trained_state(value.model, network.config)
    tensors |= {f"model.{name}": tensor for name, tensor in trained.items()}
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    content = save(tensors)
    config = {"format": FORMAT, "sha256": digest(content), **asdict(network.config), "training": dict(training)}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, content)
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_value_network(
    folder: str | Path,
    *,
    source: str | None = None,
    revision: str | None = None,
    adapted: Adapted | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> ValueNetwork:
    """Loads what `save_value_network` wrote, and its source model.

    An adapter is added to the weights beside which it stood in training, so that a forward takes no more than theirs.

    Args:
        folder: The folder, or the short name of a value network that ships with vocabridge: one of `VALUE_NETWORKS`.
        source: The source model, if it is not where the folder says.
        revision: Of the source model on the hub.
        adapted: What the source model adapts, if it is an adapter; see `load_model`.
        device: Where to put both.
        dtype: Of the models' weights.

    Raises:
        VocabridgeError: A file is missing, damaged or altered, or the source model's tokenizer is not the one it was
            trained with.
    """
    name, folder = str(folder), network_folder(folder)
    config, sha256 = read_config(folder / CONFIG)
    if source is not None:
        config = replace(config, source=source)
    tensors = read_weights(folder / WEIGHTS, sha256)
    loaded = load_model(config.source, device=device, dtype=dtype, revision=revision, adapted=adapted)
    if loaded.vocabulary.fingerprint != config.fingerprint:
        raise VocabridgeError(
            f"{folder} was trained on a tokenizer with fingerprint {config.fingerprint[:12]}, but {config.source} has "
            f"{loaded.vocabulary.fingerprint[:12]}; use the source model it was trained on"
        )
    value = _initial_delta_model(loaded, config)
    trained = _load_state(value, config, folder / WEIGHTS, tensors)
    if config.method == "full":
        return ValueNetwork(loaded, value.eval(), config, name)
    _merge_adapter(value.model)
    return ValueNetwork(loaded, value.eval(), config, name, adapter=trained)


def check_value_source(value: str, untuned: str | None = None) -> None:
    """Checks, in a moment, that there is a value source; arguments as for `load_value_source`.

    Raises:
        VocabridgeError: A file or a model is not there.
    """
    if untuned is not None:
        check_model(value)
        check_model(untuned)
        return
    _refuse_adapter(value)
    check_model(check_network_files(network_folder(value)))


def load_value_source(
    value: str, *, untuned: str | None = None, device: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> ValueSource:
    """A value network's folder or short name, or the two names of an expert pair.

    Args:
        value: The folder or short name of a value network; with `untuned`, the name of the tuned model, or of a PEFT
            adapter of it.
        untuned: The same model before tuning.
        device: Where to put the models.
        dtype: Of their weights.

    Raises:
        VocabridgeError: `value` is neither, or the pair's tokenizers differ.
    """
    if untuned is not None:
        return ExpertPair(*(load_model(name, device=device, dtype=dtype) for name in (value, untuned)))
    _refuse_adapter(value)
    return load_value_network(value, device=device, dtype=dtype)


def _refuse_adapter(value: str) -> None:
    if not is_value_network(value) and any((Path(value) / name).is_file() for name in ADAPTERS):
        raise VocabridgeError(
            f"{value} is a PEFT adapter, the tuned half of an expert pair; name the model before tuning, too, with "
            "--untuned"
        )


def _initial_delta_model(source: LoadedModel, config: ValueNetworkConfig) -> DeltaModel:
    device, commit, adapted = str(source.model.device), commit_of(source.model), adapted_by(source.model)
    model = load_weights(source.name, device=device, dtype=source.model.dtype, revision=commit, adapted=adapted)
    if config.layers is not None:
        keep_layers(model, config.layers)
    if config.method == "lora":
        _add_adapter(model, config.rank or 0)
    return DeltaModel(model, config.scheme)


def _at_random(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same shape with the random weights that its class starts from."""
    return AutoModelForCausalLM.from_config(model.config, dtype=model.dtype).to(model.device).eval()


def _add_adapter(model: PreTrainedModel, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise VocabridgeError("LoRA value networks need peft; run: pip install 'vocabridge[train]'") from error
    head = model.get_output_embeddings()
    targets = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # small updates to bf16 weights would be rounded away
            parameter.data = parameter.data.float()


def _merge_adapter(model: PreTrainedModel) -> None:
    """Adds an adapter to the weights that it stands beside, and takes it away."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())


def _trained_state(model: PreTrainedModel, config: ValueNetworkConfig) -> dict[str, Tensor]:
    if config.method == "lora":
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model)
    shared = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in shared}


def _load_state(
    value: DeltaModel, config: ValueNetworkConfig, path: Path, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Loads the tensors of a file into a value network; what of them is the model's."""
    expected = {f"model.{name}" for name in _trained_state(value.model, config)} | {"projection.weight"}
    if set(tensors) != expected:
        name = sorted(set(tensors) ^ expected)[0]
        raise VocabridgeError(
            f"{path} does not fit {config.source}: {name} is missing or unknown; use the source model it was trained on"
        )
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    try:
        value.projection.load_state_dict({"weight": state.pop("projection.weight")})
        if config.method == "lora":
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(value.model, state)
        else:
            value.model.load_state_dict(state, strict=False)  # the tied head is not stored twice
    except RuntimeError as error:
        raise VocabridgeError(
            f"{path} does not fit {config.source}: its tensors have other shapes; use the source model it was trained "
            "on"
        ) from error
    return state


class ValueNetwork(ValueSource):
    """A frozen source model and the value network trained on it: z_post = z_base + z_delta.

    Attributes:
        config: What it is.
        adapter: The adapter that was added to the value network's weights, as its file holds it; None where there is
            none, or where it still stands beside them.
    """

    def __init__(
        self,
        source: LoadedModel,
        value: DeltaModel,
        config: ValueNetworkConfig,
        name: str,
        adapter: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Pairs a source model with its value network."""
        super().__init__(source.vocabulary, {"untuned": source.model, "value": value}, name)
        self.config = config
        self.adapter = adapter

    @property
    def source_model(self) -> PreTrainedModel:
        """The frozen small model that the value network was trained on."""
        return cast(PreTrainedModel, self.models["untuned"])

    @property
    def value(self) -> DeltaModel:
        """The value network proper."""
        return cast(DeltaModel, self.models["value"])

    def required_models(self, scores: Collection[str]) -> set[str]:
        """See `ValueSource.required_models`."""
        value = "delta" in scores or "tuned" in scores
        untuned = "tuned" in scores or "untuned" in scores or (value and self.config.scheme.takes_base)
        return {name for name, required in (("value", value), ("untuned", untuned)) if required}

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        delta, untuned = logits.get("value"), logits.get("untuned")
        tuned = None if delta is None or untuned is None else untuned + delta
        return Scores(delta=delta, tuned=tuned, untuned=untuned)
