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

import hashlib
import importlib.metadata
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from transformers import PreTrainedModel

from vocabridge.alignment import Alignment, VocabridgeError, write_whole
from vocabridge.bridge import Bridge
from vocabridge.combination import Combination
from vocabridge.exact import ExactBridge, ExactSteering
from vocabridge.guard import Guard
from vocabridge.models import DeviceMap, LoadedModel, load_model
from vocabridge.policy import Policy
from vocabridge.reference import Reference, weights_digest
from vocabridge.steering import Steering
from vocabridge.strength import Strength, as_json, from_json
from vocabridge.value_network import WEIGHTS, load_value_network, save_value_network
from vocabridge.value_source import ContrastPair, ValueNetwork, ValueSource

BRIDGE = "bridge.json"
FORMAT = 1

_NETWORK, _PAIR = {"value_network", "base"}, {"tuned", "untuned"}


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
    folder = Path(folder)
    card = _Card.read(folder)
    path = folder / BRIDGE
    if exact and card.guard != Guard():
        raise VocabridgeError(
            f"{path}: a guard limits logits of tokens, which an exact bridge has none of; take it out"
        )
    base = _load(card.base, path, device=device, dtype=dtype, device_map=device_map)
    place = {"device": value_device or device, "dtype": value_dtype or dtype}
    if exact:
        sources = [_source(one.source, path, **place) for one in card.steerings]
        heard = zip(sources, card.steerings, strict=True)
        return ExactBridge(base, [ExactSteering(source, one.combination, one.strength) for source, one in heard])
    steerings = []
    for steering in card.steerings:
        source = _source(steering.source, path, **place)
        alignment = _alignment(folder / steering.alignment, steering.sha256, source, base)
        steerings.append(
            Steering.over(
                base.vocabulary,
                source,
                alignment,
                steering.combination,
                policy=steering.policy,
                strength=steering.strength,
            )
        )
    return Bridge(base, steerings, card.guard)


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
        "alignment": {"file": alignment.name, "sha256": _sha256(alignment)},
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


@dataclass(frozen=True)
class _SteeringCard:
    """What `bridge.json` says of a steering; `source` has the roles of a value network's parts or of a pair's."""

    source: dict[str, Reference]
    alignment: str
    sha256: str
    combination: Combination
    policy: Policy
    strength: Strength

    @classmethod
    def from_dict(cls, values: Any, folder: Path) -> _SteeringCard:
        names = ("source", "alignment", "combination", "policy", "strength")
        source, alignment, combination, policy, strength = _entries(values, names, "a steering")
        file, sha256 = _entries(alignment, ("file", "sha256"), "an alignment")
        if not isinstance(source, dict) or set(source) not in (_NETWORK, _PAIR):
            raise VocabridgeError(f"a source has {' and '.join(_NETWORK)}, or {' and '.join(_PAIR)}")
        if not isinstance(file, str) or Path(file).name != file:
            raise VocabridgeError(f"{file!r} is no name of a file in this folder")
        policies = [one.value for one in Policy]
        if policy not in policies:
            raise VocabridgeError(f"{policy!r} is no policy; choose among {', '.join(policies)}")
        return cls(
            source={role: Reference.from_dict(one, folder) for role, one in source.items()},
            alignment=file,
            sha256=str(sha256),
            combination=Combination.from_dict(combination),
            policy=Policy(policy),
            strength=from_json(strength),
        )


@dataclass(frozen=True)
class _Card:
    """What `bridge.json` says."""

    base: Reference
    guard: Guard
    steerings: list[_SteeringCard]

    @classmethod
    def read(cls, folder: Path) -> _Card:
        path = folder / BRIDGE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values, dict) and values.get("format") != FORMAT:
                raise VocabridgeError(
                    f"it is of format {values.get('format')}, and this version reads {FORMAT}; make the bridge again"
                )
            names = ("format", "version", "base", "guard", "steerings")
            _, _, base, guard, steerings = _entries(values, names, "a bridge")
            if not isinstance(steerings, list):
                raise VocabridgeError("its steerings are no list")
            cards = [_SteeringCard.from_dict(one, folder) for one in steerings]
            return cls(Reference.from_dict(base, folder), Guard.from_dict(guard), cards)
        except FileNotFoundError:
            raise VocabridgeError(
                f"{folder} is no bridge, there is no {BRIDGE}; `vocabridge bridge` makes one"
            ) from None
        except (OSError, ValueError) as error:
            raise VocabridgeError(f"{path} cannot be read ({error}); copy or make the bridge again") from error
        except VocabridgeError as error:
            raise VocabridgeError(f"{path}: {error}") from error


def _entries(values: Any, names: tuple[str, ...], what: str) -> tuple[Any, ...]:
    """The entries of a JSON object that has these and no others."""
    if not isinstance(values, dict) or set(values) != set(names):
        found = ", ".join(values) if isinstance(values, dict) else repr(values)
        raise VocabridgeError(f"{what} has {', '.join(names)}, and this one {found}; copy or make the bridge again")
    return tuple(values[name] for name in names)


def _load(reference: Reference, path: Path, **place: Any) -> LoadedModel:
    """The model that a reference in this file names, checked before and after."""
    try:
        reference.check_place()
        loaded = load_model(reference.name, revision=reference.revision, **place)
        reference.check_tokenizer(loaded.vocabulary.fingerprint)
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from error
    return loaded


def _source(parts: dict[str, Reference], path: Path, **place: Any) -> ValueSource:
    if set(parts) == _PAIR:
        return ContrastPair(_load(parts["tuned"], path, **place), _load(parts["untuned"], path, **place))
    network, base = parts["value_network"], parts["base"]
    try:
        base.check_place()
        if not (Path(network.name) / WEIGHTS).is_file():
            raise VocabridgeError(f"{network.name} is not there any more; put it back, or correct its name")
        network.check_weights([Path(network.name) / WEIGHTS])
        source = load_value_network(Path(network.name), base=base.name, revision=base.revision, **place)
        base.check_tokenizer(source.vocabulary.fingerprint)
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from error
    return source


def _alignment(path: Path, sha256: str, source: ValueSource, base: LoadedModel) -> Alignment:
    if path.is_file() and _sha256(path) != sha256:
        raise VocabridgeError(
            f"{path}: altered or damaged, it is not the alignment that the bridge was saved with; copy or make the "
            "bridge again"
        )
    return Alignment.load(path, source=source.vocabulary, target=base.vocabulary)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
