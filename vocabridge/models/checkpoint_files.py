"""The files of a model's folder from which its weights and its configuration are read, whatever their layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.jsonio import read_json_object

CONFIGS = (CONFIG_NAME, GENERATION_CONFIG_NAME, ADAPTER_CONFIG_NAME)
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tekken.json",
    "tiktoken.model",
)
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def model_weight_files(folder: Path) -> list[Path]:
    """The files from which transformers reads a model's weights; an index comes before its shards.

    Returns:
        What `transformers_weights` in config.json names, else the first layout that is there of one safetensors file,
        sharded safetensors, one pickled file, sharded pickled files. Empty if there is none.

    Raises:
        VocabridgeError: An index or config.json cannot be read, or names a file that is not there.
    """
    config = folder / CONFIG_NAME
    named = read_config(config).get("transformers_weights") if config.is_file() else None
    for name in [named] if named else [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME]:
        path = folder / str(name)
        if path.is_file():
            return [path, *_shards(path)] if path.name.endswith(".index.json") else [path]
    # A sharded checkpoint of torch.distributed, and whatever else transformers may learn to read.
    return sorted(folder.glob("shard-*.safetensors"))


def weight_files(folder: Path) -> list[Path]:
    """All files of a folder that hold weights: of a model, of an adapter, or of both.

    Raises:
        VocabridgeError: There is none, or one that an index names is not there.
    """
    files = model_weight_files(folder)
    files += [folder / name for name in ADAPTERS if (folder / name).is_file()][:1]
    # Some classes read further files, which their own code names.
    files += sorted(set(folder.glob("*.safetensors")) - set(files))
    if not files:
        raise VocabridgeError(f"{folder} holds no weights; name the folder of a model or of an adapter")
    return files


def config_files(folder: Path) -> list[Path]:
    """The files of a folder that say what its weights and ids mean: `CONFIGS` and `TOKENIZERS` that are there."""
    return [folder / name for name in (*CONFIGS, *TOKENIZERS) if (folder / name).is_file()]


def file_of(name: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a folder, or of a hub id in the hub's cache here; None if it is not there."""
    if Path(name).is_dir():
        return path if (path := Path(name) / file).is_file() else None
    try:
        cached = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:  # no hub id at all
        return None
    return Path(cached) if isinstance(cached, str) else None


def cached_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a hub id that is in the hub's cache here, by default of its main branch; None if none is."""
    paths = (file_of(name, file, revision) for file in (CONFIG_NAME, ADAPTER_CONFIG_NAME))
    return next((path.parent.name for path in paths if path is not None), None)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder.

    Raises:
        VocabridgeError: The file cannot be read, or holds something else.
    """
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise VocabridgeError(f"{path} is damaged ({error}); download or save it again") from error


def _shards(index: Path) -> list[Path]:
    """The files that an index names."""
    weights = read_config(index).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        raise VocabridgeError(f'{index} is damaged (it has no "weight_map" of file names); download it again')
    shards = [index.parent / name for name in sorted(set(weights.values()))]
    for shard in shards:
        if not shard.is_file():
            raise VocabridgeError(f"{index} names {shard.name}, which is not there; download that file")
    return shards
