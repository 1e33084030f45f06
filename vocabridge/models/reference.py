"""A model by name, with what tells that it is still the same one.

A model of the hub is known by its commit. One in local files is known by SHA-256 of its configuration and tokenizer
files and of all its weights; the digests of large files are remembered (`digest_cache`). An adapter is known by its own
files and by the model that it adapts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError
from vocabridge.models.adapters import Adapted, find_adapted
from vocabridge.models.checkpoint_files import TOKENIZERS, cached_commit
from vocabridge.models.loading import adapted_by, commit_of, is_local, local_files
from vocabridge.models.packaged import PACKAGED
from vocabridge.utils.digest_cache import cached_file_digest
from vocabridge.utils.hashing import file_digest, json_digest


@dataclass(frozen=True)
class Reference:
    """A model by name.

    Attributes:
        name: A short name of `PACKAGED`, a hub id, or the absolute path of local files.
        fingerprint: Of its vocabulary; None for the model that an adapter adapts, whose tokenizer is not asked.
        revision: The commit of a hub id, else None.
        digest: Of local weights, else None.
        configs: Of a local folder: SHA-256 of config.json and the like and of the tokenizer's files, by name.
        adapts: The model that it adapts, if it is an adapter.
    """

    name: str
    fingerprint: str | None
    revision: str | None = None
    digest: str | None = None
    configs: Mapping[str, str] = field(default_factory=dict)
    adapts: Reference | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, fingerprint: str) -> Reference:
        """Of a loaded model, by its `name_or_path`.

        Raises:
            VocabridgeError: It has no name by which it could be loaded again.
        """
        return cls.named(model.name_or_path or "", fingerprint, commit_of(model), adapted_by(model))

    @classmethod
    def named(
        cls, name: str, fingerprint: str | None = None, commit: str | None = None, adapted: Adapted | None = None
    ) -> Reference:
        """Of a model by name.

        Args:
            name: As for `load_model`.
            fingerprint: Of its vocabulary.
            commit: Of a hub id; by default that of its main branch in the hub's cache.
            adapted: What an adapter adapts, if it is not what its folder says.

        Raises:
            VocabridgeError: It has no name by which it could be loaded again.
        """
        if name and is_local(name):
            path = name if name in PACKAGED else str(Path(name).resolve())
            weights, configs = local_files(name)
            known: dict[str, Any] = {
                "digest": weights_digest(weights),
                "configs": {config.name: file_digest(config) for config in configs},
            }
        else:
            path, commit = name, commit or cached_commit(name)
            if commit is None:
                raise VocabridgeError(
                    f"nothing can be loaded by the name {name!r}, which this model has; save the model to a folder and "
                    "load it from there with load_model"
                )
            known = {"revision": commit}
        if adapted is None and not (name in PACKAGED or name.endswith(".gguf")):
            adapted = find_adapted(name, commit)
        adapts = None if adapted is None else cls.named(adapted.name, None, adapted.revision)
        return cls(path, fingerprint, **known, adapts=adapts)

    @property
    def adapted(self) -> Adapted | None:
        """The model that it adapts, as `load_model` takes it."""
        return None if self.adapts is None else Adapted(self.adapts.name, self.adapts.revision)

    @property
    def identity(self) -> str:
        """The same for the same weights and configuration, wherever they are."""
        adapts = None if self.adapts is None else self.adapts.identity
        known = self.revision or self.digest
        assert known is not None
        return json_digest([known, dict(self.configs), adapts]) if self.configs or adapts else known

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """Its JSON form in a file of this folder: local files inside of it or beside it by their path from there."""
        path, home = Path(self.name), folder.resolve()
        beside = home.parent != home.parent.parent and path.is_relative_to(home.parent)  # all is below the root
        name = self.name
        if path.is_absolute() and path.is_relative_to(home):
            name = f"./{path.relative_to(home).as_posix()}"
        elif path.is_absolute() and beside:
            name = f"../{path.relative_to(home.parent).as_posix()}"
        return {
            "name": name,
            "fingerprint": self.fingerprint,
            "revision": self.revision,
            "digest": self.digest,
            "configs": dict(self.configs),
            "adapts": None if self.adapts is None else self.adapts.as_dict(folder),
        }

    @classmethod
    def from_dict(cls, values: Any, folder: Path, *, adapted: bool = False) -> Reference:
        """What `as_dict` made, in a file of this folder.

        Args:
            values: The dictionary.
            folder: The file's.
            adapted: Whether it is of a model that an adapter adapts.

        Raises:
            VocabridgeError: That is no reference.
        """
        names = {"name", "fingerprint", "revision", "digest", "configs", "adapts"}
        if not isinstance(values, dict) or set(values) != names:
            raise VocabridgeError(f"{values!r} is no reference to a model; one has {', '.join(sorted(names))}")
        known = {"revision", "digest"} - {name for name in names if values[name] is None}
        strings = {"name", *known} | (set() if adapted else {"fingerprint"})
        if len(known) != 1 or not all(isinstance(values[name], str) for name in strings):
            raise VocabridgeError(
                f"{values!r} is no reference to a model; its values are strings, and either revision or digest is null"
            )
        configs, adapts, name = values["configs"], values["adapts"], values["name"]
        if not isinstance(configs, dict) or not all(isinstance(one, str) for one in configs.values()):
            raise VocabridgeError(f"{values!r} is no reference to a model; its configs are strings by name")
        place = os.path.normpath(folder.resolve() / name) if name.startswith(("./", "../")) else name
        inner = None if adapts is None else cls.from_dict(adapts, folder, adapted=True)
        return cls(**values | {"name": place, "adapts": inner})

    def check_place(self) -> None:
        """Checks that its files are where it says, and are the ones of then; and those of what it adapts.

        Raises:
            VocabridgeError: They are not.
        """
        if self.adapts is not None:
            self.adapts.check_place()
        if self.digest is None:
            if is_local(self.name):
                raise VocabridgeError(
                    f"{self.name} is meant to come from the hub, but here is a file of that name; "
                    "work in another folder"
                )
            return
        if not is_local(self.name):
            raise VocabridgeError(f"{self.name} is not there any more; put it back, or correct its name in this file")
        weights, configs = local_files(self.name)
        if weights_digest(weights) != self.digest:
            raise VocabridgeError(
                f"{self.name} has other weights now than when the bridge was saved; put the old ones back, or make the "
                "bridge again"
            )
        now = {path.name: file_digest(path) for path in configs}
        for name in sorted(now.keys() | self.configs.keys()):
            if now.get(name) != self.configs.get(name):
                what = f"tokenizer now ({name})" if name in TOKENIZERS else f"{name} now"
                raise VocabridgeError(
                    f"{self.name} has another {what} than when the bridge was saved; put the old one back, or make the "
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
                f"({(self.fingerprint or '')[:12]}); put the old one back, or make the bridge again"
            )


def weights_digest(files: Iterable[Path]) -> str:
    """Return a hash over the names and the contents of these files, in this order.

    Raises:
        VocabridgeError: There are none: such a digest would fit anything.
    """
    files = [*files]
    if not files:
        raise VocabridgeError("there is no file with weights, so nothing would tell them from others")
    return json_digest([(path.name, cached_file_digest(path)) for path in files])
