"""The description of an evaluation: values that are equal exactly when two evaluations measure the same.

Models are identified as in a saved bridge (`models.reference`), data by their SHA-256.
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


def describe(config: EvaluationConfig, saved: SavedBridge | None, **settings: Any) -> dict[str, Any]:
    """Describe what is evaluated, and how, by values that JSON can represent.

    A model or file that the config does not name has no entry. A bridge or combination that it does not name is None.

    Args:
        config: The settings of the evaluation.
        saved: The saved bridge that `config` names, or None.
        **settings: Further settings on which the results depend.

    Raises:
        VocabridgeError: A model or a file is missing.
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
        # bridge.json holds the digests of the bridge's other files.
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
    """Return a digest of the package's source files, so that results of different code are never mixed."""
    files = {
        file for package in (vocabridge, alignment) for root in package.__path__ for file in Path(root).rglob("*.py")
    }
    return json_digest(sorted((file.name, file_digest(file)) for file in files))


def _model(name: str) -> str:
    """Return the identity of a model, or of a value network together with its source model."""
    folder = network_folder(name)
    if is_value_network(folder):
        try:
            source = read_json_object(folder / CONFIG)["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise VocabridgeError(
                f"{folder / CONFIG} is not a value network's configuration ({error}); train or copy it again"
            ) from error
        digests = [file_digest(path) for path in (folder / CONFIG, folder / WEIGHTS) if path.is_file()]
        return json_digest([*digests, _model(source)])
    if is_local(name):
        return Reference.named(name).identity
    offline = not reach_repository(name)
    files = ["config.json", "adapter_config.json"]
    try:
        commit = Path(snapshot_download(name, allow_patterns=files, local_files_only=offline)).name
    except Exception as error:  # the hub's client raises many kinds of exceptions when a connection breaks
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocabridgeError(f"{name}: config.json cannot be read from the hub ({reason}); try again") from error
    return Reference.named(name, None, commit).identity
