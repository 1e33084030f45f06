"""References to models: a name, with the hashes or the commit that show whether it still names the same model.

A hub model is identified by its commit. A local model is identified by the SHA-256 of its configuration and tokenizer
files and of all its weights; the digests of large files are cached (`digest_cache`). An adapter is identified by its
own files and by the model that it adapts.
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
        fingerprint: The fingerprint of its vocabulary; None for a model that an adapter adapts, whose tokenizer is not
            read.
        revision: The commit of a hub id, else None.
        digest: The digest of local weights, else None.
        configs: The SHA-256 of a local folder's configuration and tokenizer files, by file name.
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
        """Make the reference to a loaded model, by its `name_or_path`.

        Args:
            model: The loaded model.
            fingerprint: The fingerprint of its vocabulary.

        Raises:
            VocabridgeError: The model has no name by which it can be loaded again.
        """
        return cls.named(model.name_or_path or "", fingerprint, commit_of(model), adapted_by(model))

    @classmethod
    def named(
        cls, name: str, fingerprint: str | None = None, commit: str | None = None, adapted: Adapted | None = None
    ) -> Reference:
        """Make the reference to a model by name.

        Args:
            name: As for `load_model`.
            fingerprint: The fingerprint of its vocabulary.
            commit: The commit of a hub id; by default that of its main branch in the local cache of the hub.
            adapted: The model that an adapter adapts, if it is not the one that `adapter_config.json` names.

        Raises:
            VocabridgeError: Nothing can be loaded by this name.
        """
        if name and is_local(name):
            path = name if name in PACKAGED else str(Path(name).resolve())
            weights, configs = local_files(name)
            identity: dict[str, Any] = {
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
            identity = {"revision": commit}
        if adapted is None and not (name in PACKAGED or name.endswith(".gguf")):
            adapted = find_adapted(name, commit)
        adapts = None if adapted is None else cls.named(adapted.name, None, adapted.revision)
        return cls(path, fingerprint, **identity, adapts=adapts)

    @property
    def adapted(self) -> Adapted | None:
        """The model that this adapter adapts, as an argument of `load_model`; None for a model that is no adapter."""
        return None if self.adapts is None else Adapted(self.adapts.name, self.adapts.revision)

    @property
    def identity(self) -> str:
        """A string that models share if and only if they have the same weights and configuration, wherever they are."""
        adapts = None if self.adapts is None else self.adapts.identity
        weights = self.revision or self.digest
        assert weights is not None
        return json_digest([weights, dict(self.configs), adapts]) if self.configs or adapts else weights

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """Return the JSON form for a file in this folder; local files in it or next to it get a relative path."""
        path, home = Path(self.name), folder.resolve()
        parent_is_root = (
            home.parent == home.parent.parent
        )  # every path is below the root, so none is next to the folder
        name = self.name
        if path.is_absolute() and path.is_relative_to(home):
            name = f"./{path.relative_to(home).as_posix()}"
        elif path.is_absolute() and not parent_is_root and path.is_relative_to(home.parent):
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
        """Read back what `as_dict` returned.

        Args:
            values: The dictionary.
            folder: The folder of the file that holds the dictionary.
            adapted: Whether the reference is to a model that an adapter adapts, which has no fingerprint.

        Raises:
            VocabridgeError: The dictionary is not a reference.
        """
        names = {"name", "fingerprint", "revision", "digest", "configs", "adapts"}
        if not isinstance(values, dict) or set(values) != names:
            raise VocabridgeError(f"{values!r} is no reference to a model; give it {', '.join(sorted(names))}")
        identities = {name for name in ("revision", "digest") if values[name] is not None}
        strings = {"name", *identities} | (set() if adapted else {"fingerprint"})
        if len(identities) != 1 or not all(isinstance(values[name], str) for name in strings):
            raise VocabridgeError(
                f"{values!r} is no reference to a model; its values are strings, and either revision or digest is null"
            )
        configs, adapts, name = values["configs"], values["adapts"], values["name"]
        if not isinstance(configs, dict) or not all(isinstance(sha256, str) for sha256 in configs.values()):
            raise VocabridgeError(f"{values!r} is no reference to a model; its configs are strings by name")
        place = os.path.normpath(folder.resolve() / name) if name.startswith(("./", "../")) else name
        inner = None if adapts is None else cls.from_dict(adapts, folder, adapted=True)
        return cls(**values | {"name": place, "adapts": inner})

    def check_place(self) -> None:
        """Check that the model's files still exist and are unchanged, and those of the model that it adapts.

        Raises:
            VocabridgeError: A file is missing or has changed.
        """
        if self.adapts is not None:
            self.adapts.check_place()
        if self.digest is None:
            if is_local(self.name):
                raise VocabridgeError(
                    f"{self.name} is meant to come from the hub, but there is a file of that name here; "
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
        """Check that the model's vocabulary is unchanged.

        Args:
            fingerprint: The fingerprint that the vocabulary has now.

        Raises:
            VocabridgeError: It differs from the one that was saved.
        """
        if fingerprint != self.fingerprint:
            raise VocabridgeError(
                f"{self.name} has another tokenizer now ({fingerprint[:12]}) than when the bridge was saved "
                f"({(self.fingerprint or '')[:12]}); put the old one back, or make the bridge again"
            )


def weights_digest(files: Iterable[Path]) -> str:
    """Return a hash of the names and the contents of these files, in this order.

    Raises:
        VocabridgeError: There are no files, so the digest would match any other model without files.
    """
    files = [*files]
    if not files:
        raise VocabridgeError("there is no file with weights, so nothing would distinguish them from others")
    return json_digest([(path.name, cached_file_digest(path)) for path in files])
