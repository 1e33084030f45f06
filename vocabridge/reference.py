"""A model by name, with what tells that it is still the same one.

A model of the hub is known by its commit. One in local files is known by a digest of samples: SHA-256 over each weight
file's name, size and 64 blocks of 64 KiB, evenly spaced from its first byte to its last. That reads 4 MiB a file, so
100 GB take as long as 1 GB. Training changes every block; who changes single weights on purpose is not found out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError
from vocabridge.models import PACKAGED, commit_of, is_local, weight_files

_BLOCKS, _BLOCK = 64, 1 << 16  # number, bytes


@dataclass(frozen=True)
class Reference:
    """A model by name.

    Attributes:
        name: A short name of `PACKAGED`, a hub id, or the absolute path of local files.
        fingerprint: Of its vocabulary.
        revision: The commit of a hub id, else None.
        digest: Of local weights, else None.
    """

    name: str
    fingerprint: str
    revision: str | None = None
    digest: str | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, fingerprint: str) -> Reference:
        """Of a loaded model, by its `name_or_path`.

        Raises:
            VocabridgeError: It has no name by which it could be loaded again.
        """
        name = model.name_or_path or ""
        if name and is_local(name):
            path = name if name in PACKAGED else str(Path(name).resolve())
            return cls(path, fingerprint, digest=weights_digest(weight_files(name)))
        commit = commit_of(model) or _cached_commit(name)
        if commit is None:
            raise VocabridgeError(
                f"nothing can be loaded by the name {name!r}, which this model has; save the model to a folder and "
                "load it from there with load_model"
            )
        return cls(name, fingerprint, revision=commit)

    def as_dict(self, folder: Path) -> dict[str, str | None]:
        """Its JSON form in a file of this folder: local files inside of it by "./" and their path from there."""
        path = Path(self.name)
        inside = path.is_absolute() and path.is_relative_to(folder.resolve())
        name = f"./{path.relative_to(folder.resolve()).as_posix()}" if inside else self.name
        return {"name": name, "fingerprint": self.fingerprint, "revision": self.revision, "digest": self.digest}

    @classmethod
    def from_dict(cls, values: Any, folder: Path) -> Reference:
        """What `as_dict` made, in a file of this folder.

        Raises:
            VocabridgeError: That is no reference.
        """
        names = {"name", "fingerprint", "revision", "digest"}
        if not isinstance(values, dict) or set(values) != names:
            raise VocabridgeError(f"{values!r} is no reference to a model; one has {', '.join(sorted(names))}")
        known = {"revision", "digest"} - {name for name in names if values[name] is None}
        if len(known) != 1 or not all(isinstance(values[name], str) for name in {"name", "fingerprint", *known}):
            raise VocabridgeError(
                f"{values!r} is no reference to a model; its values are strings, and either revision or digest is null"
            )
        name = values["name"]
        return cls(**values | {"name": str(folder.resolve() / name) if name.startswith("./") else name})

    def check_place(self) -> None:
        """Checks that its files are where it says, and their weights the ones of then.

        Raises:
            VocabridgeError: They are not.
        """
        if self.digest is None:
            if is_local(self.name):
                raise VocabridgeError(
                    f"{self.name} is meant to come from the hub, but here is a file of that name; "
                    "work in another folder"
                )
            return
        if not is_local(self.name):
            raise VocabridgeError(f"{self.name} is not there any more; put it back, or correct its name in this file")
        self.check_weights(weight_files(self.name))

    def check_weights(self, files: Iterable[Path]) -> None:
        """Checks that these files hold the weights of then.

        Raises:
            VocabridgeError: They do not.
        """
        if weights_digest(files) != self.digest:
            raise VocabridgeError(
                f"{self.name} has other weights now than when the bridge was saved; put the old ones back, or make the "
                "bridge again"
            )

    def check_tokenizer(self, fingerprint: str) -> None:
        """Checks that its vocabulary, which has this fingerprint, is the one of then.

        Raises:
            VocabridgeError: It is not.
        """
        if fingerprint != self.fingerprint:
            raise VocabridgeError(
                f"{self.name} has another tokenizer now ({fingerprint[:12]}) than when the bridge was saved "
                f"({self.fingerprint[:12]}); put the old one back, or make the bridge again"
            )


def _cached_commit(name: str) -> str | None:
    """The commit of a hub id's main branch that is in the hub's cache here."""
    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no hub id at all
        return None
    return Path(path).parent.name if isinstance(path, str) else None


def weights_digest(files: Iterable[Path]) -> str:
    """Hex SHA-256 of samples of these files, in this order; see above."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _BLOCKS * _BLOCK:
                digest.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
