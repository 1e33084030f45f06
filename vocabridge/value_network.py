"""Value networks: small models whose output is a change of logits, z_post = z_base + z_delta.

Two kinds, one interface (`ValueSource`). Both are a pair of small models of one family that read the same tokens:

    ResidualValueNetwork   base (frozen) and value:   delta = value,           tuned = base + value, untuned = base
    ContrastPair           untuned and tuned:         delta = tuned - untuned, no training at all

Source: Lu et al., "Transferable Post-training via Inverse Value Learning", arXiv 2410.21027 (the residual form);
Liu et al., "Tuning Language Models by Proxy", arXiv 2401.08565 (the pair).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from vocabridge.alignment import VocabridgeError, Vocabulary, write_whole
from vocabridge.models import LoadedModel, load_model, load_weights

WEIGHTS = "value_network.safetensors"
CONFIG = "value_network.json"


@dataclass(frozen=True)
class Scores:
    """What a value source says at some positions; logits over the source vocabulary, each of one shape (..., |S|).

    Attributes:
        delta: The change of logits, or None where nobody asked.
        tuned: The donor's own logits, delta included, or None.
        untuned: The donor's logits without the delta, or None.
    """

    delta: Tensor | None = None
    tuned: Tensor | None = None
    untuned: Tensor | None = None

    def at(self, part: slice | Tensor, device: torch.device) -> Scores:
        """Some of the positions, flattened to (n, |S|), on a device."""
        return Scores(
            **{
                name: None if logits is None else logits.flatten(0, -2)[part].to(device)
                for name, logits in vars(self).items()
            }
        )


class ValueSource(nn.Module, ABC):
    """Two small models of one vocabulary, and the three quantities that come from them.

    Attributes:
        vocabulary: The source vocabulary, as wide as the models' logits.
        models: The models by role; each is called with transformers' arguments and gives logits (batch, n, |S|).
        name: Where it came from, for people only.
    """

    def __init__(self, vocabulary: Vocabulary, models: Mapping[str, nn.Module], name: str) -> None:
        """Holds the pair."""
        super().__init__()
        self.vocabulary = vocabulary
        self.models = nn.ModuleDict(models)
        self.name = name

    @abstractmethod
    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """The models that have to run for these quantities."""

    @abstractmethod
    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """The quantities that these models' logits, float32 (..., |S|), determine."""


class ContrastPair(ValueSource):
    """A tuned model minus the same model untuned."""

    def __init__(self, tuned: LoadedModel, untuned: LoadedModel) -> None:
        """Pairs two models.

        Raises:
            VocabridgeError: Their tokenizers differ.
        """
        if tuned.vocabulary.fingerprint != untuned.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{tuned.name} and {untuned.name} have different tokenizers; a contrast pair is one model before and "
                "after tuning"
            )
        super().__init__(
            tuned.vocabulary,
            {"tuned": tuned.model, "untuned": untuned.model},
            f"{tuned.name} - {untuned.name}",
        )

    @property
    def tuned(self) -> PreTrainedModel:
        """The tuned model."""
        return cast(PreTrainedModel, self.models["tuned"])

    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """See `ValueSource.needed`."""
        return {name for name, wanted in (("tuned", delta or tuned), ("untuned", delta or untuned)) if wanted}

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        tuned, untuned = logits.get("tuned"), logits.get("untuned")
        delta = None if tuned is None or untuned is None else tuned - untuned
        return Scores(delta=delta, tuned=tuned, untuned=untuned)


class ResidualValueNetwork(ValueSource):
    """A frozen small base and the value network trained on it."""

    def __init__(self, base: LoadedModel, value: DeltaModel, config: ValueNetworkConfig, name: str) -> None:
        """Pairs a base with its value network."""
        super().__init__(base.vocabulary, {"base": base.model, "value": value}, name)
        self.config = config

    @property
    def base(self) -> PreTrainedModel:
        """The frozen small base."""
        return cast(PreTrainedModel, self.models["base"])

    @property
    def value(self) -> DeltaModel:
        """The value network proper."""
        return cast(DeltaModel, self.models["value"])

    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """See `ValueSource.needed`."""
        return {name for name, wanted in (("value", delta or tuned), ("base", tuned or untuned)) if wanted}

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        delta, untuned = logits.get("value"), logits.get("base")
        tuned = None if delta is None or untuned is None else untuned + delta
        return Scores(delta=delta, tuned=tuned, untuned=untuned)


class DeltaModel(nn.Module):
    """A causal language model whose logits are a change of logits: z_delta = U P h.

    h is the last hidden state of the model's trunk, U its own unembedding, and P a square matrix that starts at
    zero, so that training starts from z_post = z_base exactly, and costs d^2 weights instead of another |S| x d.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Wraps a model; its parameters become the value network's initialisation.

        Args:
            model: A causal language model of width d.
        """
        super().__init__()
        self.model = model
        width = model.get_output_embeddings().weight.shape[1]
        self.projection = nn.Linear(width, width, bias=False, dtype=torch.float32, device=model.device)
        nn.init.zeros_(self.projection.weight)

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
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> DeltaOutput:
        """Changes of logits at the last `logits_to_keep` positions (0: all), (batch, k, |S|)."""
        hidden = self.hidden(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return DeltaOutput(logits=self.unembed(hidden[:, -logits_to_keep:]))

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


@dataclass(frozen=True)
class ValueNetworkConfig:
    """What `value_network.json` holds.

    Attributes:
        base: The small base by name: short name, folder, GGUF file or hub id.
        fingerprint: Fingerprint of the base's vocabulary.
        method: "lora" or "full".
        rank: Rank of the LoRA adapter; None for "full".
        training: The recipe and its losses, as recorded by training; for people.
    """

    base: str
    fingerprint: str
    method: str
    rank: int | None = None
    training: dict[str, Any] = field(default_factory=dict)


def new_value_network(base: str, *, method: str, rank: int, device: str = "cpu") -> ResidualValueNetwork:
    """A value network at its start: the pretrained small model with a change of logits of zero.

    Args:
        base: The small base by name; frozen.
        method: "lora" trains an adapter on every linear layer and P; "full" trains all weights and P.
        rank: The adapter's rank.
        device: Where to put it.

    Raises:
        VocabridgeError: The model cannot be loaded.
    """
    loaded = load_model(base, device=device)
    config = ValueNetworkConfig(
        base=base,
        fingerprint=loaded.vocabulary.fingerprint,
        method=method,
        rank=rank if method == "lora" else None,
    )
    return ResidualValueNetwork(loaded, _initial_delta_model(loaded, config, device), config, base)


def save_value_network(network: ResidualValueNetwork, folder: Path, training: Mapping[str, Any]) -> None:
    """Writes `value_network.safetensors` (what training changed, bf16) and `value_network.json`.

    Args:
        network: The trained network.
        folder: Made if absent.
        training: The recipe and losses to record.

    Raises:
        VocabridgeError: The folder cannot be written.
    """
    value = network.value
    tensors = {f"projection.{name}": tensor for name, tensor in value.projection.state_dict().items()}
    tensors |= {f"model.{name}": tensor for name, tensor in _trained_state(value.model, network.config).items()}
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    config = asdict(network.config) | {"training": dict(training)}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save(tensors))
    write_whole(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_value_network(folder: Path, *, device: str = "cpu") -> ResidualValueNetwork:
    """Loads what `save_value_network` wrote, and the small base that it names.

    Raises:
        VocabridgeError: A file is missing or damaged, or the base's tokenizer is not the one it was trained with.
    """
    config = _read_config(folder / CONFIG)
    base = load_model(config.base, device=device)
    if base.vocabulary.fingerprint != config.fingerprint:
        raise VocabridgeError(
            f"{folder} was trained on a tokenizer with fingerprint {config.fingerprint[:12]}, but {config.base} has "
            f"{base.vocabulary.fingerprint[:12]}; use the base it was trained on"
        )
    value = _initial_delta_model(base, config, device)
    _load_state(value, config, folder / WEIGHTS)
    return ResidualValueNetwork(base, value.eval(), config, str(folder))


def load_value_source(value: str, *, untuned: str | None = None, device: str = "cpu") -> ValueSource:
    """A value network's folder, or the two names of a contrast pair.

    Args:
        value: The folder of a value network; with `untuned`, the tuned model's name.
        untuned: The same model before tuning.
        device: Where to put the models.

    Raises:
        VocabridgeError: `value` is neither, or the pair's tokenizers differ.
    """
    if untuned is not None:
        return ContrastPair(load_model(value, device=device), load_model(untuned, device=device))
    return load_value_network(Path(value), device=device)


def _initial_delta_model(base: LoadedModel, config: ValueNetworkConfig, device: str) -> DeltaModel:
    model = load_weights(base.name, device=device, dtype=base.model.dtype)
    if config.method == "lora":
        _add_adapter(model, config.rank or 0)
    return DeltaModel(model)


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


def _trained_state(model: PreTrainedModel, config: ValueNetworkConfig) -> dict[str, Tensor]:
    if config.method == "lora":
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model)
    shared = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in shared}


def _load_state(value: DeltaModel, config: ValueNetworkConfig, path: Path) -> None:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise VocabridgeError(
            f"there is no file {path}; a value network's folder holds {WEIGHTS} and {CONFIG}"
        ) from None
    except Exception as error:
        raise VocabridgeError(f"{path} is damaged ({error}); copy or train the value network again") from error
    expected = {f"model.{name}" for name in _trained_state(value.model, config)} | {"projection.weight"}
    if set(tensors) != expected:
        name = sorted(set(tensors) ^ expected)[0]
        raise VocabridgeError(
            f"{path} does not fit {config.base}: {name} is missing or unknown; use the base it was trained on"
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
            f"{path} does not fit {config.base}: its tensors have other shapes; use the base it was trained on"
        ) from error


def _read_config(path: Path) -> ValueNetworkConfig:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(fields[name], str) for name in ("base", "fingerprint", "method")):
            raise TypeError("base, fingerprint and method are strings")
        return ValueNetworkConfig(**fields)
    except FileNotFoundError:
        raise VocabridgeError(f"there is no file {path}; give the folder of a trained value network") from None
    except (ValueError, KeyError, TypeError) as error:
        raise VocabridgeError(
            f"{path} is not a value network's configuration ({error}); copy or train it again"
        ) from error
