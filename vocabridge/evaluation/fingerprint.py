"""What an evaluation is made of, in values that are the same exactly where the same would be measured.

Models are known as in a saved bridge (`reference`), data by their SHA-256.
"""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

import vocabridge
from vocabridge import alignment
from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.hub import reach_repository
from vocabridge.alignment.jsonio import read_json_object
from vocabridge.bridge.manifest import BRIDGE, SavedBridge
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.tasks import digest
from vocabridge.models.loading import is_local
from vocabridge.models.reference import Reference
from vocabridge.models.value_network_files import CONFIG, WEIGHTS, is_value_network, network_folder
from vocabridge.projection.combination import Combination
from vocabridge.projection.config import BoundaryConfig
from vocabridge.utils.hashing import file_digest, json_digest


def fingerprint(config: EvaluationConfig, saved: SavedBridge | None, **settings: Any) -> dict[str, Any]:
    """Describe what is evaluated, and how; what is not given has no entry, but for settings.

    Args:
        config: The config.
        saved: The saved bridge that it names.
        **settings: More that results depend on.

    Raises:
        VocabridgeError: A model or a file is not there.
    """
    models = {
        "base": config.base,
        "value source": config.value,
        "untuned model": config.untuned,
        "ceiling": config.ceiling,
        "control": config.control,
    }
    files = {"alignment": config.alignment, "validation data": config.validation}
    return {
        "vocabridge": importlib.metadata.version("vocabridge"),
        "sources of vocabridge": sources_digest(),
        "boundary config": BoundaryConfig().as_dict(),
        **{what: _model(name) for what, name in models.items() if name is not None},
        **({} if saved is None else {"base": saved.base.identity}),
        "test data": digest(config.data),
        **{what: digest(file) for what, file in files.items() if file is not None},
        "prompt": config.prompt,
        "response": config.response,
        "extractor": config.extract,
        # Its file knows the digests of all that belongs to it.
        "bridge": None if saved is None else file_digest(saved.folder / BRIDGE),
        "combination": None if config.combination is None else Combination.load(config.combination).as_dict(),
        "policies": [policy.value for policy in config.tried_policies],
        "alphas": [*config.tried_alphas],
        "limit": config.limit,
        "answers": config.answers,
        "max_new_tokens": config.max_new_tokens,
        "dtype": config.dtype.value,
        **settings,
    }


@functools.cache
def sources_digest() -> str:
    """Return a digest of the package's own source files, so that results of other code are never continued."""
    files = {
        file for package in (vocabridge, alignment) for root in package.__path__ for file in Path(root).rglob("*.py")
    }
    return json_digest(sorted((file.name, file_digest(file)) for file in files))


def _model(name: str) -> str:
    """What tells a model, or a value network and its source model, from others."""
    folder = network_folder(name)
    if is_value_network(folder):
        try:
            source = read_json_object(folder / CONFIG)["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise VocabridgeError(f"{folder / CONFIG} is not a value network's configuration ({error})") from error
        own = [file_digest(path) for path in (folder / CONFIG, folder / WEIGHTS) if path.is_file()]
        return json_digest([*own, _model(source)])
    if is_local(name):
        return Reference.named(name).identity
    offline = not reach_repository(name)
    files = ["config.json", "adapter_config.json"]
    try:
        commit = Path(snapshot_download(name, allow_patterns=files, local_files_only=offline)).name
    except Exception as error:  # the connection breaks: the hub's client raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocabridgeError(f"{name}: the hub does not let us read config.json ({reason}); try again") from error
    return Reference.named(name, None, commit).identity
