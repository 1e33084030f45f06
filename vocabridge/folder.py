"""A bridge as a folder, which can be loaded again, moved and handed on.

    bridge.json                 the base, the guard, and for each steering its source, combination, policy and strength
    alignment-N.safetensors     of steering N, counted from 1
    value-N/                    its value network, where that is an adapter of some megabytes

All other models are referred to (`Reference`): by name, with the tokenizer's fingerprint, and the hub's commit or a
digest of the weights. Loading checks them all. `bridge.json` may be edited: a strength, a guard, the new place of a
model; a name that begins with "./" is inside of the folder. It is written last, and all files beside their place first,
so a folder that has one is a bridge.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, write_whole
from vocabridge.bridge import Bridge
from vocabridge.exact import ExactBridge, ExactSteering
from vocabridge.models import DeviceMap
from vocabridge.reference import Reference, weights_digest
from vocabridge.saved_bridge import BRIDGE, FORMAT, SavedBridge, file_digest
from vocabridge.steering import Steering
from vocabridge.strength import as_json
from vocabridge.value_network import WEIGHTS, save_value_network
from vocabridge.value_source import ContrastPair, ValueNetwork, ValueSource


def save_bridge(bridge: Bridge, folder: str | Path) -> None:
    """Writes a bridge as a folder.

    Args:
        bridge: Its models have been loaded from somewhere: their weights are not copied, but for adapters.
        folder: A new or empty folder, or a bridge, which is replaced.

    Raises:
        VocabridgeError: The folder holds something else, or cannot be written; or a part of the bridge cannot be
            referred to. What was there before is then as it was.
    """
    folder = Path(folder)
    if not _is_free(folder):
        raise VocabridgeError(f"{folder} is not empty and is no bridge; name a new folder")
    is_new = not folder.exists()
    part = folder / f".{uuid.uuid4().hex}.part"
    try:
        part.mkdir(parents=True)
        document = {
            "format": FORMAT,
            "version": importlib.metadata.version("vocabridge"),
            "base": Reference.of(bridge.base, bridge.vocabulary.fingerprint).as_dict(folder),
            "guard": bridge.guard.as_dict(),
            "steerings": [_write(one, number, part, folder) for number, one in enumerate(bridge.steerings, 1)],
        }
        write_whole(part / BRIDGE, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
        _move_into_place(part, folder)
    except OSError as error:
        raise VocabridgeError(
            f"{folder}: cannot be written ({error.strerror or error}); free some space or name another place"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@overload
def load(
    folder: str | Path,
    *,
    exact: Literal[False] = ...,
    device: str | None = ...,
    dtype: torch.dtype = ...,
    device_map: DeviceMap | None = ...,
    value_device: str | None = ...,
    value_dtype: torch.dtype | None = ...,
) -> Bridge: ...


@overload
def load(
    folder: str | Path,
    *,
    exact: Literal[True],
    device: str | None = ...,
    dtype: torch.dtype = ...,
    device_map: DeviceMap | None = ...,
    value_device: str | None = ...,
    value_dtype: torch.dtype | None = ...,
) -> ExactBridge: ...


def load(
    folder: str | Path,
    *,
    exact: bool = False,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device_map: DeviceMap | None = None,
    value_device: str | None = None,
    value_dtype: torch.dtype | None = None,
) -> Bridge | ExactBridge:
    """Loads what `save_bridge` wrote.

    Args:
        folder: The folder.
        exact: Combine the models over bytes, without alignments; see `ExactBridge`. Policies do not matter then.
        device: Where the base model goes, in torch's words; by default "cpu".
        dtype: What its weights are cast to.
        device_map: In place of `device`, spreads the base's layers over several devices; needs accelerate.
        value_device: Where the value sources go; by default where `device` says.
        value_dtype: What their weights are cast to; by default as the base's.

    Raises:
        VocabridgeError: A file is missing, damaged or altered, or a model is not the one of then; or an exact bridge
            is asked for that has a guard, or a tokenizer without an exact view.
    """
    saved = SavedBridge.read(Path(folder))
    if exact:
        saved.check_exact()
    base = saved.load_base(device=device, dtype=dtype, device_map=device_map)
    place = {"device": value_device or device, "dtype": value_dtype or dtype}
    if exact:
        steerings = [ExactSteering(one.load_source(**place), one.combination, one.strength) for one in saved.steerings]
        return ExactBridge(base, steerings)
    return Bridge(base, [one.load(base.vocabulary, **place) for one in saved.steerings], saved.guard)


def _is_free(folder: Path) -> bool:
    """Whether a bridge may be written there: it is nothing, empty but for what a killed save left, or a bridge."""
    if not folder.is_dir():
        return not folder.exists()
    return (folder / BRIDGE).is_file() or all(path.suffix == ".part" for path in folder.iterdir())


def _write(steering: Steering, number: int, part: Path, folder: Path) -> dict[str, Any]:
    """Writes the files of a steering to `part`, from where they come to `folder`; its JSON form."""
    if steering.alignment is None:
        raise VocabridgeError(
            f"steering {number}, {steering.source.name}, has a projection of its own, which a folder cannot hold; make "
            "it of an alignment with Steering.over"
        )
    alignment = part / f"alignment-{number}.safetensors"
    steering.alignment.save(alignment)
    return {
        "source": {
            role: reference.as_dict(folder) for role, reference in _refer(steering.source, number, part, folder).items()
        },
        "alignment": {"file": alignment.name, "sha256": file_digest(alignment)},
        "combination": steering.combination.as_dict(),
        "policy": steering.policy.value,
        "strength": as_json(steering.strength),
    }


def _refer(source: ValueSource, number: int, part: Path, folder: Path) -> dict[str, Reference]:
    """References to the parts of a value source; an adapter is written to `part`."""
    fingerprint = source.vocabulary.fingerprint
    if isinstance(source, ContrastPair):
        return {role: Reference.of(cast(PreTrainedModel, one), fingerprint) for role, one in source.models.items()}
    if not isinstance(source, ValueNetwork):
        raise VocabridgeError(f"{source.name} is neither a value network nor a contrast pair; only these can be saved")
    if source.config.method == "lora":
        place, kept = folder / f"value-{number}", part / f"value-{number}"
        save_value_network(source, kept, source.config.training)
    elif (Path(source.name) / WEIGHTS).is_file():
        place = kept = Path(source.name)
    else:
        raise VocabridgeError(
            f"{source.name!r} is no folder of a value network; save it with save_value_network and load it from there"
        )
    network = Reference(str(place.resolve()), fingerprint, digest=weights_digest([kept / WEIGHTS]))
    return {"value_network": network, "base": Reference.of(source.base, fingerprint)}


def _move_into_place(part: Path, folder: Path) -> None:
    (folder / BRIDGE).unlink(missing_ok=True)
    files = [path for path in part.rglob("*") if path.is_file() and path.name != BRIDGE]
    for path in (*files, part / BRIDGE):
        place = folder / path.relative_to(part)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)
