"""Value networks: made from a pretrained small model, saved as the weights that training changed, and loaded again.

A folder holds `value_network.safetensors` (the LoRA adapter or all weights, and the matrix P, in bf16) and
`value_network.json` (the source model's name and identity, its tokenizer's fingerprint, scheme and depth, the training
config, the SHA-256 of the first file, and a checksum of the settings). `value_network_files` reads both.
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
from vocabridge.models.loading import (
    LoadedModel,
    adapted_by,
    check_model,
    commit_of,
    is_local,
    load_model,
    load_weights,
)
from vocabridge.models.reference import Reference
from vocabridge.models.truncation import keep_layers
from vocabridge.models.value_network_files import (
    CONFIG,
    DIGESTS,
    FORMAT,
    WEIGHTS,
    Digests,
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
    """Make an untrained value network, whose change of logits is zero.

    Random weights come from torch's global generator, so `torch.manual_seed` makes them reproducible.

    Args:
        source: The source model by name; it stays frozen.
        method: "lora" trains P and an adapter on every linear layer; "full" trains P and all weights.
        rank: The adapter's rank; not used by "full".
        scheme: What the value network reads of the source model.
        layers: How many of the source model's first layers the value network has; None for all.
        initialization: Whether the value network starts from the source model's weights.
        device: The device of both models.

    Raises:
        VocabridgeError: The model cannot be loaded or cut to so many layers, or "lora" is combined with random weights.
    """
    if method == "lora" and initialization is Initialization.RANDOM:
        raise VocabridgeError(
            "an adapter would leave random weights random; train a value network that starts from random weights with "
            "the method full"
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
        value = DeltaModel(_with_random_weights(value.model), scheme)
    return ValueNetwork(loaded, value, config, source)


def save_value_network(network: ValueNetwork, folder: Path, training: Mapping[str, Any]) -> None:
    """Write `value_network.safetensors` (the weights that training changed, in bf16) and `value_network.json`.

    Args:
        network: The trained network.
        folder: The folder to write to; made if it does not exist.
        training: The training config and the losses, to be recorded for people.

    Raises:
        VocabridgeError: The folder cannot be written, or the source model has no name by which it can be loaded again.
    """
    value, settings = network.value, network.config
    tensors = {f"projection.{name}": tensor for name, tensor in value.projection.state_dict().items()}
    trained = network.adapter or _trained_state(value.model, network.config)
    tensors |= {f"model.{name}": tensor for name, tensor in trained.items()}
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    content = save(tensors)
    source = Reference.of(network.source_model, settings.fingerprint)
    digests = Digests(digest(content), source.identity, source.revision)
    config = {
        "format": FORMAT,
        "checksum": digests.checksum(settings),
        **{key: getattr(digests, name) for name, key in DIGESTS.items()},
        **asdict(settings),
        "training": dict(training),
    }
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
    """Load a saved value network and its source model.

    A LoRA adapter is merged into the weights, so a forward costs no more than one without an adapter.

    Args:
        folder: The folder, or the short name of a value network that ships with vocabridge: one of `VALUE_NETWORKS`.
        source: The source model by name, if it is not the one that the folder names.
        revision: The revision of the source model, if it is on the hub; by default the one that was trained on.
        adapted: The model that the source model adapts, if that is an adapter; see `load_model`.
        device: The device of both models.
        dtype: The dtype of both models' weights.

    Raises:
        VocabridgeError: A file is missing, damaged or altered, or the source model is not the one that the value
            network was trained on.
    """
    name, folder = str(folder), network_folder(folder)
    config, digests = read_config(folder / CONFIG)
    if source is not None:
        config = replace(config, source=source)
    tensors = read_weights(folder / WEIGHTS, digests.weights)
    if revision is None and not is_local(config.source):
        revision = digests.revision
    loaded = load_model(config.source, device=device, dtype=dtype, revision=revision, adapted=adapted)
    if loaded.vocabulary.fingerprint != config.fingerprint:
        raise VocabridgeError(
            f"{folder} was trained on a tokenizer with fingerprint {config.fingerprint[:12]}, but {config.source} has "
            f"{loaded.vocabulary.fingerprint[:12]}; use the source model that it was trained on"
        )
    if Reference.of(loaded.model, config.fingerprint).identity != digests.source:
        raise VocabridgeError(
            f"{folder} was trained on another model than {config.source} is now: its weights or its configuration "
            "differ; use the source model that it was trained on"
        )
    value = _initial_delta_model(loaded, config)
    trained_state = _load_state(value, config, folder / WEIGHTS, tensors)
    if config.method == "full":
        return ValueNetwork(loaded, value.eval(), config, name)
    _merge_adapter(value.model)
    return ValueNetwork(loaded, value.eval(), config, name, adapter=trained_state)


def check_value_source(value: str, untuned: str | None = None) -> None:
    """Check that the files of a value source exist, without loading models; arguments as for `load_value_source`.

    Raises:
        VocabridgeError: A file or a model is missing.
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
    """Load a value network by its folder or short name, or an expert pair by the names of its two models.

    Args:
        value: The folder or short name of a value network. With `untuned`, the name of the tuned model, which may be a
            PEFT adapter.
        untuned: The same model before tuning.
        device: The device of the models.
        dtype: The dtype of their weights.

    Raises:
        VocabridgeError: A model cannot be loaded, or the pair's tokenizers differ.
    """
    if untuned is not None:
        return ExpertPair(*(load_model(name, device=device, dtype=dtype) for name in (value, untuned)))
    _refuse_adapter(value)
    return load_value_network(value, device=device, dtype=dtype)


def _refuse_adapter(value: str) -> None:
    if not is_value_network(value) and any((Path(value) / name).is_file() for name in ADAPTERS):
        raise VocabridgeError(
            f"{value} is a PEFT adapter, which is the tuned half of an expert pair; name the model before tuning, too, "
            "with --untuned"
        )


def _initial_delta_model(source: LoadedModel, config: ValueNetworkConfig) -> DeltaModel:
    device, commit, adapted = str(source.model.device), commit_of(source.model), adapted_by(source.model)
    model = load_weights(source.name, device=device, dtype=source.model.dtype, revision=commit, adapted=adapted)
    if config.layers is not None:
        keep_layers(model, config.layers)
    if config.method == "lora":
        _add_adapter(model, config.rank or 0)
    return DeltaModel(model, config.scheme)


def _with_random_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model of the same shape with the random weights that its class starts from."""
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
        if "lora_" in name:  # bf16 would round small updates away
            parameter.data = parameter.data.float()


def _merge_adapter(model: PreTrainedModel) -> None:
    """Merge the LoRA layers of a model into the weights, and remove them."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())


def _trained_state(model: PreTrainedModel, config: ValueNetworkConfig) -> dict[str, Tensor]:
    if config.method == "lora":
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def _load_state(
    value: DeltaModel, config: ValueNetworkConfig, path: Path, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Load the tensors of a file into a value network, and return those of its model, without P."""
    expected = {f"model.{name}" for name in _trained_state(value.model, config)} | {"projection.weight"}
    if set(tensors) != expected:
        name = sorted(set(tensors) ^ expected)[0]
        raise VocabridgeError(
            f"{path} does not fit {config.source}, because {name} is missing or unknown; use the source model that it "
            "was trained on"
        )
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    try:
        value.projection.load_state_dict({"weight": state.pop("projection.weight")})
        if config.method == "lora":
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(value.model, state)
        else:
            value.model.load_state_dict(state, strict=False)  # a tied head is not stored
    except RuntimeError as error:
        raise VocabridgeError(
            f"{path} does not fit {config.source}, because its tensors have other shapes; use the source model that it "
            "was trained on"
        ) from error
    return state


class ValueNetwork(ValueSource):
    """A frozen source model and the value network trained on it: z_post = z_source + z_delta.

    Attributes:
        config: The configuration that is saved with the value network.
        adapter: The tensors of the LoRA adapter that was merged into the value network's weights; None if there is no
            adapter, or it is not merged.
    """

    def __init__(
        self,
        source: LoadedModel,
        value: DeltaModel,
        config: ValueNetworkConfig,
        name: str,
        adapter: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Pair a source model with its value network."""
        super().__init__(source.vocabulary, {"untuned": source.model, "value": value}, name)
        self.config = config
        self.adapter = adapter

    @property
    def source_model(self) -> PreTrainedModel:
        """The frozen small model that the value network was trained on."""
        return cast(PreTrainedModel, self.models["untuned"])

    @property
    def value(self) -> DeltaModel:
        """The value network itself, without the source model."""
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
