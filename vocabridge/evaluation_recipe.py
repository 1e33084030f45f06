"""What an evaluation is made of, in values that are the same exactly where the same would be measured.

Models of the hub are known by their commit, local ones by a digest of samples of their weights (`reference`), data by
their SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.hub import reach_repository
from vocabridge.alignment.jsonio import read_json_object
from vocabridge.models import is_local, weight_files
from vocabridge.parts import Names
from vocabridge.reference import weights_digest
from vocabridge.saved_bridge import BRIDGE, SavedBridge, file_digest
from vocabridge.task import Template, digest
from vocabridge.value_network import CONFIG, WEIGHTS, is_value_network, network_folder


def recipe(
    names: Names,
    saved: SavedBridge | None,
    data: str | Path,
    validation: str | Path | None,
    template: Template,
    **settings: Any,
) -> dict[str, Any]:
    """Describes an evaluation; what is not given has no entry, but for settings.

    Raises:
        VocabridgeError: A model or a file is not there.
    """
    models = {
        "base": names.base,
        "value source": names.value,
        "untuned model": names.untuned,
        "ceiling": names.ceiling,
        "control": names.control,
    }
    files = {"alignment": names.alignment, "validation data": validation}
    return {
        "vocabridge": importlib.metadata.version("vocabridge"),
        **{what: _model(name) for what, name in models.items() if name is not None},
        **({} if saved is None else {"base": saved.base.digest or saved.base.revision}),
        "test data": digest(data),
        **{what: digest(file) for what, file in files.items() if file is not None},
        "prompt": template.prompt,
        "response": template.response,
        "extractor": template.extractor.pattern,
        # Its file knows the digests of all that belongs to it.
        "bridge": None if saved is None else file_digest(saved.folder / BRIDGE),
        **settings,
    }


def _model(name: str) -> str:
    """The commit of a hub id, or a digest of a model's or a value network's weights, the small base's among them."""
    folder = network_folder(name)
    if is_value_network(folder):
        try:
            base = read_json_object(folder / CONFIG)["base"]
        except (ValueError, KeyError, TypeError) as error:
            raise VocabridgeError(f"{folder / CONFIG} is not a value network's configuration ({error})") from error
        own = weights_digest([folder / WEIGHTS]) if (folder / WEIGHTS).is_file() else "none"
        return hashlib.sha256(f"{own} {_model(base)}".encode()).hexdigest()
    if is_local(name):
        return weights_digest(weight_files(name))
    offline = not reach_repository(name)
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json"], local_files_only=offline)).name
    except Exception as error:  # the connection breaks: the hub's client raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocabridgeError(f"{name}: the hub does not let us read config.json ({reason}); try again") from error
