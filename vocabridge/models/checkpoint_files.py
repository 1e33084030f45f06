"""The files from which a model's weights and configuration are read, for every layout that transformers reads."""

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
    """List the files from which transformers reads a model's weights; an index comes before its shards.

    Returns:
        The files that `transformers_weights` in config.json names. Without that key, those of the first layout that the
        folder has: one safetensors file, sharded safetensors, one pickled file, sharded pickled files. Empty if the
        folder holds no weights.

    Raises:
        VocabridgeError: config.json or an index cannot be read, or an index names a file that does not exist.
    """
    config = folder / CONFIG_NAME
    named = read_config(config).get("transformers_weights") if config.is_file() else None
    for name in [named] if named else [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME]:
        path = folder / str(name)
        if path.is_file():
            return [path, *_shards(path)] if path.name.endswith(".index.json") else [path]
    # A sharded checkpoint of torch.distributed.
    return sorted(folder.glob("shard-*.safetensors"))


def weight_files(folder: Path) -> list[Path]:
    """List all files of a folder that hold weights: of a model, of an adapter, or of both.

    Raises:
        VocabridgeError: The folder holds no weights, or an index names a file that does not exist.
    """
    files = model_weight_files(folder)
    files += [folder / name for name in ADAPTERS if (folder / name).is_file()][:1]
    # Some model classes read further files, whose names are in the code of the class.
    files += sorted(set(folder.glob("*.safetensors")) - set(files))
    if not files:
        raise VocabridgeError(f"{folder} holds no weights; name the folder of a model or of an adapter")
    return files


def config_files(folder: Path) -> list[Path]:
    """List those of `CONFIGS` and `TOKENIZERS` that a folder has; they define what its weights and ids mean."""
    return [folder / name for name in (*CONFIGS, *TOKENIZERS) if (folder / name).is_file()]


def file_of(name: str, file: str, revision: str | None = None) -> Path | None:
    """Return the path of a file in a folder, or in the local cache of a hub id; None if there is no such file."""
    if Path(name).is_dir():
        return path if (path := Path(name) / file).is_file() else None
    try:
        cached = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:  # the name is not a hub id
        return None
    return Path(cached) if isinstance(cached, str) else None


def cached_commit(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a hub id in the local cache, by default of its main branch; None if it is not cached."""
    paths = (file_of(name, file, revision) for file in (CONFIG_NAME, ADAPTER_CONFIG_NAME))
    return next((path.parent.name for path in paths if path is not None), None)


def read_config(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file of a model's folder.

    Raises:
        VocabridgeError: The file cannot be read, or holds no JSON object.
    """
    try:
        return read_json_object(path)
    except (OSError, ValueError) as error:
        raise VocabridgeError(f"{path} is damaged ({error}); download or save it again") from error


def _shards(index: Path) -> list[Path]:
    """List the files that an index names, and check that they exist."""
    weights = read_config(index).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        raise VocabridgeError(f'{index} is damaged (it has no "weight_map" of file names); download it again')
    shards = [index.parent / name for name in sorted(set(weights.values()))]
    for shard in shards:
        if not shard.is_file():
            raise VocabridgeError(f"{index} names {shard.name}, which does not exist; download that file")
    return shards
