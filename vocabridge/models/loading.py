"""Models by name: a hub id, a folder, a GGUF file, a PEFT adapter, or a packaged model by its short name.

The result is always a `LoadedModel`: a causal language model of transformers, and the byte-exact `Vocabulary` of its
tokenizer, as wide as the model's logits. A GGUF file is dequantized once to bf16 safetensors in the cache folder, keyed
by the file's content, because reading GGUF takes 20 times as long. A PEFT adapter is loaded as the model that it
adapts, with the adapter merged into the weights.

Every loaded model is checked, so that no weight is left random, unread, NaN or infinite, and it is run on one token
(`loading_checks`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel

from vocabridge.alignment import Effect, VocabridgeError, Vocabulary, refuse_idle
from vocabridge.alignment.errors import refuse_empty
from vocabridge.alignment.hub import reach_repository
from vocabridge.alignment.tokenizers.downloads import check_downloads
from vocabridge.models.adapters import Adapted, add_adapter, find_adapted
from vocabridge.models.checkpoint_files import cached_commit, config_files, file_of, model_weight_files, weight_files
from vocabridge.models.gguf_conversion import convert_once, from_pretrained
from vocabridge.models.loading_checks import check_configs, check_finite, check_forward, check_loaded, weights_of
from vocabridge.models.loading_errors import loading_error
from vocabridge.models.native_tokenizer import with_transformers_tokenizer
from vocabridge.models.packaged import PACKAGED, PackagedModel, package_folder
from vocabridge.models.transformers_version import check_transformers
from vocabridge.utils.digest_cache import cached_file_digest
from vocabridge.utils.oom import is_out_of_memory

if TYPE_CHECKING:
    from typing_extensions import Unpack

DeviceMap: TypeAlias = str | Mapping[str, int | str]
"""The devices of one model's layers: "auto", or a device for each module, in accelerate's format."""

_TOKENIZER_FILES = [
    "tokenizer*",
    "tekken.json",
    "tiktoken.model",
    "special_tokens_map.json",
    "config.json",
    "chat_template.jinja",
]


class LoadingOptions(TypedDict, total=False):
    """Optional keyword arguments that control how a model is loaded.

    Attributes:
        device: The device of the weights, by torch's name; by default "cpu".
        dtype: The dtype that the weights are cast to; by default bfloat16.
        device_map: Instead of `device`, the devices that the layers are spread over; needs accelerate.
        revision: For a hub id, the commit, branch or tag.
        adapted: For an adapter, the model that it adapts, if it is not the one that `adapter_config.json` names.
    """

    device: str | None
    dtype: torch.dtype
    device_map: DeviceMap | None
    revision: str | None
    adapted: Adapted | None


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model and its vocabulary.

    Attributes:
        name: The name that the user gave.
        folder: The folder of the model's files, or a hub id.
        model: The model, in evaluation mode.
        vocabulary: The byte view of its tokenizer; `vocabulary.size` is the width of the model's logits.
    """

    name: str
    folder: str
    model: PreTrainedModel
    vocabulary: Vocabulary


def load_model(name: str, **options: Unpack[LoadingOptions]) -> LoadedModel:
    """Load a model and its vocabulary.

    Args:
        name: A short name of `PACKAGED`, a folder, a `.gguf` file, or a hub id; of a model or of a PEFT adapter.
        **options: See `LoadingOptions`.

    Raises:
        VocabridgeError: Nothing by that name can be loaded, the files do not hold the model's weights, the device does
            not exist, or vocabridge does not work with the installed version of transformers.
    """
    model = load_weights(name, **options)
    size = model.get_output_embeddings().weight.shape[0]
    tokenizer_owner = _tokenizer_owner(model)
    folder = _tokenizer_folder(*tokenizer_owner)
    vocabulary = replace(Vocabulary.load(folder, size=size), name=name)
    if _is_built_by_transformers(tokenizer_owner.name, Path(folder)):
        vocabulary = with_transformers_tokenizer(vocabulary, *tokenizer_owner)
    return LoadedModel(name=name, folder=model_folder(name), model=model, vocabulary=vocabulary)


def load_weights(
    name: str,
    *,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device_map: DeviceMap | None = None,
    revision: str | None = None,
    adapted: Adapted | None = None,
) -> PreTrainedModel:
    """Load a model without its vocabulary; arguments and errors as for `load_model`.

    The `name_or_path` of the model is `name`.
    """
    check_transformers()
    refuse_empty(name, "model")
    advice = f"{name} is local and has no revisions; leave the revision out"
    refuse_idle(Effect("revision", revision is not None, not is_local(name), advice))
    if device is not None and device_map is not None:
        raise VocabridgeError("give one device, or a device_map over several, not both")
    place = None if device_map is not None else find_device(device or "cpu")
    folder, offline = _checked_folder(name), _is_offline(name)
    named_in_folder = find_adapted(folder, revision, offline=offline)
    if named_in_folder is None:
        model = _read(name, folder, dtype, device_map, revision, offline=offline)
    else:
        adapted = adapted or named_in_folder
        model = _read_adapted(name, adapted, dtype, device_map)
        adapted = Adapted(adapted.name, commit_of(model))
        model = add_adapter(model, folder, revision)
    check_finite(repr(name), weights_of(model))
    if place is not None:
        torch.nn.Module.to(model, place)
    model.name_or_path = name
    model.adapted = adapted if named_in_folder else None  # type: ignore[assignment]
    # transformers kept the commit here up to version 5.20; it never saves this attribute.
    model.config._commit_hash = None if is_local(name) else cached_commit(name, revision)
    check_forward(model.eval())
    return model


def _checked_folder(name: str) -> str:
    """Return a model's folder or hub id, after a check that the files of a local model are downloaded completely."""
    if is_local(name) and name not in PACKAGED:
        check_downloads(Path(name))
    return model_folder(name)


def _read_adapted(name: str, adapted: Adapted, dtype: torch.dtype, device_map: DeviceMap | None) -> PreTrainedModel:
    """Load the model that an adapter adapts, without the adapter."""
    try:
        folder, offline = _checked_folder(adapted.name), _is_offline(adapted.name)
        if find_adapted(folder, adapted.revision, offline=offline) is not None:
            raise VocabridgeError(f"{adapted.name} is an adapter itself; merge it into its model and save that")
        model = _read(adapted.name, folder, dtype, device_map, adapted.revision, offline=offline)
    except VocabridgeError as error:
        raise VocabridgeError(f"the adapter {name} needs the model that it adapts: {error}") from error
    model.name_or_path = adapted.name
    model.config._commit_hash = None if is_local(adapted.name) else cached_commit(*adapted)
    return model


def _read(
    name: str,
    folder: str,
    dtype: torch.dtype,
    device_map: DeviceMap | None,
    revision: str | None,
    *,
    offline: bool,
) -> PreTrainedModel:
    """Load a model that is no adapter with transformers, and check it."""
    check_configs(folder, revision)
    try:
        model, report = from_pretrained(
            folder, dtype=dtype, device_map=device_map, revision=revision, local_files_only=offline
        )
    except Exception as error:  # a malformed configuration can raise any exception
        if is_out_of_memory(error):
            raise
        if device_map is not None and importlib.util.find_spec("accelerate") is None:
            raise VocabridgeError("device_map needs accelerate; run: pip install 'vocabridge[train]'") from error
        others = f"a folder, a .gguf file, a hub id, or one of {', '.join(PACKAGED)}"
        raise loading_error(name, error, others) from error
    config = file_of(folder, "config.json", revision)
    check_loaded(repr(name), model, report, [] if config is None else model_weight_files(config.parent))
    return model


def check_model(name: str) -> None:
    """Check that a model by this name exists, without reading its weights.

    Args:
        name: As for `load_model`.

    Raises:
        VocabridgeError: There is no such model.
    """
    refuse_empty(name, "model")
    if name in PACKAGED:
        package_folder(name)
    elif name.endswith(".gguf"):
        _gguf_file(name)
    elif not Path(name).exists():
        reach_repository(name)
    elif not any((Path(name) / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise VocabridgeError(f"{name} holds no model, as there is no config.json; give a folder that has one")


def commit_of(model: PreTrainedModel) -> str | None:
    """Return the commit of the hub repository that a model comes from; None for local files."""
    return getattr(model.config, "_commit_hash", None)


def adapted_by(model: PreTrainedModel) -> Adapted | None:
    """Return the model that a loaded adapter adapts, with its commit; None for a model that is no adapter."""
    return getattr(model, "adapted", None)


def tokenizer_place(model: PreTrainedModel) -> str:
    """Return the folder of a loaded model's tokenizer; an adapter without a tokenizer has that of its adapted model."""
    return _tokenizer_folder(*_tokenizer_owner(model))


def _tokenizer_owner(model: PreTrainedModel) -> Adapted:
    """Return name and commit of the model whose files hold the tokenizer: the model itself, or the one it adapts."""
    itself, adapted = Adapted(str(model.name_or_path), commit_of(model)), adapted_by(model)
    return itself if adapted is None or _has_tokenizer(_tokenizer_folder(*itself)) else adapted


def _is_built_by_transformers(name: str, folder: Path) -> bool:
    """Whether the users of a model load its tokenizer with transformers, and not from a GGUF file or tekken.json."""
    converted = name in PACKAGED or name.endswith(".gguf")
    return not converted and (folder / "tokenizer.json").is_file() and not (folder / "tekken.json").is_file()


def _tokenizer_folder(name: str, commit: str | None) -> str:
    if commit is not None:
        return snapshot_download(
            name, revision=commit, allow_patterns=_TOKENIZER_FILES, local_files_only=_is_offline(name)
        )
    # The tokenizer.json of a converted folder has one id per spelling, whereas several tokens of a GGUF file may share
    # one. So the GGUF file itself is read.
    return name if name.endswith(".gguf") else model_folder(name)


def _is_offline(name: str) -> bool:
    """Whether a name is a hub id and the hub cannot be reached, so that only its local cache can be read."""
    return not is_local(name) and not reach_repository(name)


def _has_tokenizer(folder: str) -> bool:
    names = ("tokenizer.json", "tekken.json")
    return Path(folder).is_file() or any((Path(folder) / name).is_file() for name in names)


def is_local(name: str) -> bool:
    """Whether the name of a model stands for local files, and not for a hub id."""
    return name in PACKAGED or Path(name).exists()


def local_files(name: str) -> tuple[list[Path], list[Path]]:
    """List the weight files of a local model, and its configuration files.

    A packaged model and a GGUF file have no configuration files, because the configuration is in the GGUF file.

    Raises:
        VocabridgeError: No file holds weights, or a file is missing.
    """
    if name.endswith(".gguf"):
        return [Path(name)], []
    folder = Path(model_folder(name))
    return weight_files(folder), [] if name in PACKAGED else config_files(folder)


def resolve_vocabulary(name: str) -> Vocabulary:
    """Load the vocabulary of a model without its weights.

    Args:
        name: As for `load_model`, or a `tokenizer.json`.

    Raises:
        VocabridgeError: Nothing by that name holds a tokenizer.
    """
    adapted = find_adapted(name) if Path(name).is_dir() else None
    if adapted is None:
        vocabulary = Vocabulary.load(model_folder(name) if name in PACKAGED else name)
    elif _has_tokenizer(name):
        vocabulary = Vocabulary.load(name, size=resolve_vocabulary(adapted.name).size)
    else:
        vocabulary = resolve_vocabulary(adapted.name)
    return replace(vocabulary, name=name)


def model_folder(name: str) -> str:
    """Return the folder or hub id that transformers can load for `name`; a GGUF file is converted on first use."""
    if name in PACKAGED:
        return str(_converted_package(name, PACKAGED[name]))
    if name.endswith(".gguf"):
        path = _gguf_file(name)
        return str(convert_once(lambda _scratch: path, f"{path.stem}-{cached_file_digest(path)[:16]}"))
    return name


def _gguf_file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise VocabridgeError(f"there is no file {name}; give the path of a GGUF model")
    return path


def _converted_package(name: str, packaged: PackagedModel) -> Path:
    package = package_folder(name)
    key = f"{name}-{packaged.requirement.rpartition('==')[2]}"
    return convert_once(lambda scratch: packaged.gguf(package, scratch), key)


def find_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        VocabridgeError: There is no such device on this machine, or it is "meta", which stores no values.
    """
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise VocabridgeError(f"there is no device {name!r} here ({_first_line(error)}); give cpu or cuda:0") from error
    if device.type == "meta":
        raise VocabridgeError("the device 'meta' stores no values; give cpu or cuda:0")
    return device


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
