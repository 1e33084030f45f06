"""Saving and loading of a bridge as a folder, which can be moved and shared.

    bridge.json                 the base, the limits, and for each steering its source, combination, policy and strength
    alignment-N.safetensors     of steering N, counted from 1
    value-N/                    its value network, if that is an adapter (a few MB)

Other models are not copied. `bridge.json` refers to each (`Reference`) by its name, its tokenizer's fingerprint, and
either the hub's commit or digests of the weights, the configuration and the tokenizer. An adapter also has a reference
to the model that it adapts. A value network has the digest of its `value_network.json`, which has the digest of its
weights. Loading checks all of these. `bridge.json` may be edited, for example a strength, a limit or the new path of a
model. The name of a model inside or beside the folder is a path relative to the folder, which begins with "./" or
"../", so that both can be moved together.

Saving over an old bridge is atomic. `bridge.json` names the other files, and the files of the new bridge get names that
are free (`alignment-1.2.safetensors`). So the old bridge is complete until `bridge.json` is replaced, and the new one
from then on. Before a file is written, its name and the names of the old bridge's files are in the folder's lock file.
The process that holds the lock removes those of them that `bridge.json` does not name.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, overload

import torch
from transformers import PreTrainedModel

from vocabridge.alignment import Effect, VocabridgeError, refuse_idle, write_atomically
from vocabridge.alignment.files import LOCK, PART, locked_folder
from vocabridge.bridge.manifest import BRIDGE, FORMAT, SavedBridge
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import DeviceMap
from vocabridge.models.reference import Reference
from vocabridge.models.value_network import ValueNetwork, save_value_network
from vocabridge.models.value_network_files import CONFIG, is_value_network, network_folder
from vocabridge.models.value_source import ValueSource
from vocabridge.projection.strength import as_json
from vocabridge.utils.hashing import file_digest

_OURS = re.compile(r"(alignment-\d+(\.\d+)?\.safetensors|value-\d+(\.\d+)?)")
"""The names of the files and folders that `save_bridge` writes beside `bridge.json`."""


def save_bridge(bridge: Bridge, folder: str | Path) -> None:
    """Write a bridge as a folder.

    Args:
        bridge: The bridge. Its models must have been loaded by name, because only weights of adapters are copied.
        folder: A new or empty folder, or a bridge's folder, which is replaced.

    Raises:
        VocabridgeError: The folder holds something else, or cannot be written; a part of the bridge cannot be referred
            to; or another process is writing to the folder. The folder's content is then unchanged.
    """
    folder = Path(folder)
    check_free(folder)
    with locked_folder(folder) as lock:
        files = _Files(folder, lock)
        try:
            document = {
                "format": FORMAT,
                "version": importlib.metadata.version("vocabridge"),
                "base": Reference.of(bridge.base, bridge.vocabulary.fingerprint).as_dict(folder),
                "limits": bridge.limits.as_dict(),
                "steerings": [_write(steering, number, files) for number, steering in enumerate(bridge.steerings, 1)],
            }
            write_atomically(folder / BRIDGE, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise VocabridgeError(
                f"{folder}: cannot be written ({error.strerror or error}); free some space or name another folder"
            ) from error
        finally:
            files.sweep()
            (folder / LOCK).unlink()


@overload
def load(
    folder: str | Path,
    *,
    byte_level: Literal[False] = ...,
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
    byte_level: Literal[True],
    device: str | None = ...,
    dtype: torch.dtype = ...,
    device_map: DeviceMap | None = ...,
    value_device: str | None = ...,
    value_dtype: torch.dtype | None = ...,
) -> ByteLevelBridge: ...


def load(
    folder: str | Path,
    *,
    byte_level: bool = False,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device_map: DeviceMap | None = None,
    value_device: str | None = None,
    value_dtype: torch.dtype | None = None,
) -> Bridge | ByteLevelBridge:
    """Load a bridge that `save_bridge` wrote.

    Args:
        folder: The bridge's folder.
        byte_level: Whether to combine the models over bytes, without alignments and policies; see `ByteLevelBridge`.
        device: The device of the base model, as torch names it; by default "cpu".
        dtype: The dtype that the base's weights are cast to.
        device_map: Spreads the base's layers over several devices, in place of `device`; needs accelerate.
        value_device: The device of the value sources; by default `device`.
        value_dtype: The dtype that their weights are cast to; by default `dtype`.

    Raises:
        VocabridgeError: A file is missing, damaged or altered; a model is not the one that the bridge was saved with; a
            byte-level bridge would have limits, or a tokenizer without a byte-exact view; or a setting has no effect.
    """
    saved = SavedBridge.read(Path(folder))
    if byte_level:
        saved.check_byte_level()
    refuse_idle(
        *(
            Effect(name, given is not None, bool(saved.steerings), "this bridge has no value source; leave it out")
            for name, given in (("value_device", value_device), ("value_dtype", value_dtype))
        )
    )
    saved.check(alignments=not byte_level)  # first, because loading a model may take minutes
    base = saved.load_base(device=device, dtype=dtype, device_map=device_map)
    place = {"device": value_device or device, "dtype": value_dtype or dtype}
    if byte_level:
        steerings = [
            ByteLevelSteering(steering.load_source(**place), steering.combination, steering.strength)
            for steering in saved.steerings
        ]
        return ByteLevelBridge(base, steerings)
    return Bridge(base, [steering.load(base.vocabulary, **place) for steering in saved.steerings], saved.limits)


class _Files:
    """The files of a bridge's folder beside `bridge.json`, while the folder is locked."""

    def __init__(self, folder: Path, lock: BinaryIO) -> None:
        """Remove the files that a killed process has left.

        Args:
            folder: The bridge's folder.
            lock: The folder's lock file, which holds names of files, one a line.
        """
        self.folder, self._lock = folder, lock
        self._names = _journaled(lock.read())
        self.sweep()
        self._names = set()
        lock.seek(0)
        lock.truncate()
        self._note(name for name in _named(folder) if _OURS.fullmatch(name))

    def new(self, stem: str, suffix: str = "") -> Path:
        """Return the path of a new file or folder whose name is free and begins with this stem."""
        names = (f"{stem}{f'.{number}' if number > 1 else ''}{suffix}" for number in itertools.count(1))
        name = next(name for name in names if not (self.folder / name).exists())
        self._note([name])
        return self.folder / name

    def kept(self, new: Path, stem: str, suffix: str = "") -> Path:
        """Return an old file or folder of this stem with the content of `new`, which is then removed; else `new`."""
        same_stem = re.compile(rf"{stem}(\.\d+)?{re.escape(suffix)}")
        for name in sorted(filter(same_stem.fullmatch, _named(self.folder) - {new.name})):
            if _contents(self.folder / name) == _contents(new):
                _remove(new)
                return self.folder / name
        return new

    def sweep(self) -> None:
        """Remove the noted files, except for those that `bridge.json` names."""
        for name in self._names - _named(self.folder):
            _remove(self.folder / name)
            _remove(self.folder / f".{name}{PART}")

    def _note(self, names: Iterable[str]) -> None:
        added = sorted(names)
        self._names.update(added)
        self._lock.write("".join(f"{name}\n" for name in added).encode())
        self._lock.flush()


def _journaled(content: bytes) -> set[str]:
    """Return the names in a lock file. A last line without a line end is ignored, because its file was not begun."""
    lines = content.decode(errors="replace").split("\n")[:-1]
    return {line for line in lines if _OURS.fullmatch(line)}


def _named(folder: Path) -> set[str]:
    """Return the files and folders in a folder that its `bridge.json` names; none if that cannot be read."""
    try:
        document = json.loads((folder / BRIDGE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    return {Path(text).parts[0] for text in _strings(document) if Path(text).parts}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _contents(path: Path) -> dict[str, str]:
    """Return the digests of a file, or of the files in a folder, by name."""
    if path.is_dir():
        return {file.name: file_digest(file) for file in path.iterdir()}
    return {"": file_digest(path)} if path.is_file() else {}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_free(folder: Path) -> None:
    """Check that a bridge may be written to a folder.

    Raises:
        VocabridgeError: The folder holds something else.
    """
    if not _is_free(folder):
        raise VocabridgeError(f"{folder} is not empty and is no bridge; name a new folder")


def _is_free(folder: Path) -> bool:
    """Return whether a folder does not exist, holds a bridge, or is empty but for the files of a killed save."""
    if not folder.is_dir():
        return not folder.exists()
    if (folder / BRIDGE).is_file():
        return True
    lock = folder / LOCK
    leftovers = _journaled(lock.read_bytes()) | {LOCK} if lock.is_file() else set()
    return all(path.name in leftovers or path.suffix == PART for path in folder.iterdir())


def _write(steering: Steering, number: int, files: _Files) -> dict[str, Any]:
    """Write the files of a steering, and return its JSON object."""
    if steering.alignment is None:
        raise VocabridgeError(
            f"steering {number}, {steering.source.name}, has no alignment, so its projection cannot be saved; make the "
            "steering with Steering.over"
        )
    stem_and_suffix = f"alignment-{number}", ".safetensors"
    alignment = files.new(*stem_and_suffix)
    steering.alignment.save(alignment)
    alignment = files.kept(alignment, *stem_and_suffix)
    return {
        "source": {
            role: reference.as_dict(files.folder) for role, reference in _refer(steering.source, number, files).items()
        },
        "alignment": {"file": alignment.name, "sha256": file_digest(alignment)},
        "combination": steering.combination.as_dict(),
        "policy": steering.policy.value,
        "strength": as_json(steering.strength),
        "boundary_config": steering.boundary_config.as_dict(),
    }


def _refer(source: ValueSource, number: int, files: _Files) -> dict[str, Reference]:
    """Return references to the parts of a value source, and write an adapter to the folder."""
    fingerprint = source.vocabulary.fingerprint
    if isinstance(source, ExpertPair):
        return {role: Reference.of(cast(PreTrainedModel, model), fingerprint) for role, model in source.models.items()}
    if not isinstance(source, ValueNetwork):
        raise VocabridgeError(f"{source.name} is neither a value network nor an expert pair; only these can be saved")
    folder = network_folder(source.name)
    if source.config.method == "lora":
        folder = files.new(f"value-{number}")
        save_value_network(source, folder, source.config.training)
        folder = files.kept(folder, f"value-{number}")
    elif not is_value_network(folder):
        raise VocabridgeError(
            f"{source.name!r} is not the folder of a value network; save it with save_value_network and load it from "
            "that folder"
        )
    network = Reference(str(folder.resolve()), fingerprint, digest=file_digest(folder / CONFIG))
    return {"value_network": network, "source_model": Reference.of(source.source_model, fingerprint)}
