"""A bridge as a folder, which can be loaded again, moved and handed on.

    bridge.json                 the base, the limits, and for each steering its source, combination, policy and strength
    alignment-N.safetensors     of steering N, counted from 1
    value-N/                    its value network, where that is an adapter of some megabytes

All other models are referred to (`Reference`): by name, with the tokenizer's fingerprint, and the hub's commit or
digests of the weights and of the files with its configuration and tokenizer; an adapter also with the model that it
adapts. A value network is known by its `value_network.json`, which knows its weights. Loading checks them all.
`bridge.json` may be edited: a strength, a limit, the new place of a model. The name of a model inside of the folder or
beside it is its path from there, and begins with "./" or "../"; so both can be moved together.

`bridge.json` names the other files. A bridge that replaces one gives its files names that are free
(`alignment-1.2.safetensors`), so the old bridge is whole until `bridge.json` is replaced, and the new one from then on.
Before any file is written, its name and those of the old bridge's files are in the folder's lock file; whoever holds
the lock removes those of them that `bridge.json` does not name.
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
"""The names of what `save_bridge` writes beside `bridge.json`."""


def save_bridge(bridge: Bridge, folder: str | Path) -> None:
    """Writes a bridge as a folder.

    Args:
        bridge: Its models have been loaded from somewhere: their weights are not copied, but for adapters.
        folder: A new or empty folder, or a bridge, which is replaced.

    Raises:
        VocabridgeError: The folder holds something else, or cannot be written; or a part of the bridge cannot be
            referred to; or another process is writing a bridge there. What was there before is then as it was.
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
                "steerings": [_write(one, number, files) for number, one in enumerate(bridge.steerings, 1)],
            }
            write_atomically(folder / BRIDGE, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise VocabridgeError(
                f"{folder}: cannot be written ({error.strerror or error}); free some space or name another place"
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
    """Loads what `save_bridge` wrote.

    Args:
        folder: The folder.
        byte_level: Combine the models over bytes, without alignments; see `ByteLevelBridge`. Policies do not matter
            then.
        device: Where the base model goes, in torch's words; by default "cpu".
        dtype: What its weights are cast to.
        device_map: In place of `device`, spreads the base's layers over several devices; needs accelerate.
        value_device: Where the value sources go; by default where `device` says.
        value_dtype: What their weights are cast to; by default as the base's.

    Raises:
        VocabridgeError: A file is missing, damaged or altered, or a model is not the one of then; or a byte-level
            bridge is asked for that has limits, or a tokenizer without a byte-exact view; or a setting has no effect.
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
    saved.check(alignments=not byte_level)  # before a model is loaded, which may take minutes
    base = saved.load_base(device=device, dtype=dtype, device_map=device_map)
    place = {"device": value_device or device, "dtype": value_dtype or dtype}
    if byte_level:
        steerings = [
            ByteLevelSteering(one.load_source(**place), one.combination, one.strength) for one in saved.steerings
        ]
        return ByteLevelBridge(base, steerings)
    return Bridge(base, [one.load(base.vocabulary, **place) for one in saved.steerings], saved.limits)


class _Files:
    """The files of a bridge's folder beside `bridge.json`, while one process is at work in it."""

    def __init__(self, folder: Path, lock: BinaryIO) -> None:
        """Removes what a process that was killed has left.

        Args:
            folder: The bridge's.
            lock: Its lock file, which holds names of files, one a line.
        """
        self.folder, self._lock = folder, lock
        self._names = _journaled(lock.read())
        self.sweep()
        self._names = set()
        lock.seek(0)
        lock.truncate()
        self._note(name for name in _named(folder) if _OURS.fullmatch(name))

    def new(self, stem: str, suffix: str = "") -> Path:
        """A place for a new file or folder, whose name begins with that stem."""
        names = (f"{stem}{f'.{number}' if number > 1 else ''}{suffix}" for number in itertools.count(1))
        name = next(name for name in names if not (self.folder / name).exists())
        self._note([name])
        return self.folder / name

    def kept(self, new: Path, stem: str, suffix: str = "") -> Path:
        """The old bridge's file or folder of that stem if it is the same as the new one, which is then removed."""
        same_stem = re.compile(rf"{stem}(\.\d+)?{re.escape(suffix)}")
        for name in sorted(filter(same_stem.fullmatch, _named(self.folder) - {new.name})):
            if _contents(self.folder / name) == _contents(new):
                _remove(new)
                return self.folder / name
        return new

    def sweep(self) -> None:
        """Removes the files that were noted, but for those that `bridge.json` names."""
        for name in self._names - _named(self.folder):
            _remove(self.folder / name)
            _remove(self.folder / f".{name}{PART}")

    def _note(self, names: Iterable[str]) -> None:
        added = sorted(names)
        self._names.update(added)
        self._lock.write("".join(f"{name}\n" for name in added).encode())
        self._lock.flush()


def _journaled(content: bytes) -> set[str]:
    """The names in a lock file; a last line without an end was being written, and its file had not been begun."""
    lines = content.decode(errors="replace").split("\n")[:-1]
    return {line for line in lines if _OURS.fullmatch(line)}


def _named(folder: Path) -> set[str]:
    """The files and folders in a bridge's folder that its `bridge.json` names; none where there is no sound one."""
    try:
        document = json.loads((folder / BRIDGE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    return {Path(text).parts[0] for text in _strings(document) if Path(text).parts}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def _contents(path: Path) -> dict[str, str]:
    """What tells a file, or a folder of files, from another one."""
    if path.is_dir():
        return {one.name: file_digest(one) for one in path.iterdir()}
    return {"": file_digest(path)} if path.is_file() else {}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_free(folder: Path) -> None:
    """Checks that a bridge may be written to a folder.

    Raises:
        VocabridgeError: It holds something else.
    """
    if not _is_free(folder):
        raise VocabridgeError(f"{folder} is not empty and is no bridge; name a new folder")


def _is_free(folder: Path) -> bool:
    """Whether a bridge may be written there: it is nothing, empty but for what a killed save left, or a bridge."""
    if not folder.is_dir():
        return not folder.exists()
    if (folder / BRIDGE).is_file():
        return True
    lock = folder / LOCK
    left = _journaled(lock.read_bytes()) | {LOCK} if lock.is_file() else set()
    return all(path.name in left or path.suffix == PART for path in folder.iterdir())


def _write(steering: Steering, number: int, files: _Files) -> dict[str, Any]:
    """Writes the files of a steering; its JSON form."""
    if steering.alignment is None:
        raise VocabridgeError(
            f"steering {number}, {steering.source.name}, has a projection of its own, which a folder cannot hold; make "
            "it of an alignment with Steering.over"
        )
    name = f"alignment-{number}", ".safetensors"
    alignment = files.new(*name)
    steering.alignment.save(alignment)
    alignment = files.kept(alignment, *name)
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
    """References to the parts of a value source; an adapter is written to the folder."""
    fingerprint = source.vocabulary.fingerprint
    if isinstance(source, ExpertPair):
        return {role: Reference.of(cast(PreTrainedModel, one), fingerprint) for role, one in source.models.items()}
    if not isinstance(source, ValueNetwork):
        raise VocabridgeError(f"{source.name} is neither a value network nor an expert pair; only these can be saved")
    place = network_folder(source.name)
    if source.config.method == "lora":
        place = files.new(f"value-{number}")
        save_value_network(source, place, source.config.training)
        place = files.kept(place, f"value-{number}")
    elif not is_value_network(place):
        raise VocabridgeError(
            f"{source.name!r} is no folder of a value network; save it with save_value_network and load it from there"
        )
    network = Reference(str(place.resolve()), fingerprint, digest=file_digest(place / CONFIG))
    return {"value_network": network, "source_model": Reference.of(source.source_model, fingerprint)}
