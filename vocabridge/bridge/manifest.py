"""The manifest `bridge.json` of a saved bridge, and the loading of each part that it names.

`saving.load` loads all parts and makes a bridge of them; an evaluation loads only the parts that it needs. Every part
is checked to be the one that the bridge was saved with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabridge.alignment import Alignment, VocabridgeError, Vocabulary
from vocabridge.alignment.jsonio import read_json
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.steering import Steering
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.models.reference import Reference
from vocabridge.models.value_network import load_value_network
from vocabridge.models.value_network_files import CONFIG, check_network_files, is_value_network
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.combination import Combination
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.strength import Strength, from_json
from vocabridge.utils.hashing import file_digest

BRIDGE = "bridge.json"
FORMAT = 6

_NETWORK, _PAIR = {"value_network", "source_model"}, {"tuned", "untuned"}


@dataclass(frozen=True)
class SavedSteering:
    """A steering of a saved bridge.

    Attributes:
        source: References to the parts of the value source, by role: `value_network` and `source_model`, or `tuned` and
            `untuned`.
        alignment: The name of the alignment's file.
        sha256: The SHA-256 of that file, in hexadecimal.
        combination: The projection method, the form and the weights.
        policy: The boundary policy.
        strength: alpha.
        boundary_config: The settings of token healing and lookahead.
        folder: The bridge's folder.
    """

    source: dict[str, Reference]
    alignment: str
    sha256: str
    combination: Combination
    policy: BoundaryPolicy
    strength: Strength
    boundary_config: BoundaryConfig
    folder: Path

    @classmethod
    def from_dict(cls, values: Any, folder: Path) -> SavedSteering:
        """Read the JSON object of a steering in `bridge.json`.

        Raises:
            VocabridgeError: The object is not a steering.
        """
        names = ("source", "alignment", "combination", "policy", "strength", "boundary_config")
        source, alignment, combination, policy, strength, boundary_config = _entries(values, names, "a steering")
        file, sha256 = _entries(alignment, ("file", "sha256"), "an alignment")
        if not isinstance(source, dict) or set(source) not in (_NETWORK, _PAIR):
            raise VocabridgeError(
                f"a source has {' and '.join(sorted(_NETWORK))}, or {' and '.join(sorted(_PAIR))}; correct it"
            )
        if not isinstance(file, str) or Path(file).name != file:
            raise VocabridgeError(f"{file!r} is not the name of a file in this folder; correct it")
        policies = [known_policy.value for known_policy in BoundaryPolicy]
        if policy not in policies:
            raise VocabridgeError(f"{policy!r} is not a policy; choose among {', '.join(policies)}")
        return cls(
            source={role: Reference.from_dict(reference, folder) for role, reference in source.items()},
            alignment=file,
            sha256=str(sha256),
            combination=Combination.from_dict(combination),
            policy=BoundaryPolicy(policy),
            strength=from_json(strength),
            boundary_config=BoundaryConfig.from_dict(boundary_config),
            folder=folder,
        )

    def check(self, *, alignment: bool = True) -> None:
        """Check, without loading a model, that the parts exist and are the ones that the bridge was saved with.

        Args:
            alignment: Whether to check the alignment, too.

        Raises:
            VocabridgeError: A file is missing, damaged or altered.
        """
        try:
            for role, reference in self.source.items():
                if role == "value_network":
                    self._check_network(reference)
                else:
                    reference.check_place()
        except VocabridgeError as error:
            raise VocabridgeError(f"{self.folder / BRIDGE}: {error}") from error
        if alignment:
            Alignment.load(self._checked_alignment())

    def load(self, target: Vocabulary, **place: Any) -> Steering:
        """Load the steering, for a base model with this vocabulary; `place` as for `load_source`.

        Raises:
            VocabridgeError: A file is missing, damaged or altered, or a model is not the one that the bridge was saved
                with.
        """
        source = self.load_source(**place)
        alignment = Alignment.load(self._checked_alignment(), source=source.vocabulary, target=target)
        return Steering.over(
            target,
            source,
            alignment,
            self.combination,
            policy=self.policy,
            strength=self.strength,
            boundary_config=self.boundary_config,
        )

    def load_source(self, **place: Any) -> ValueSource:
        """Load the value source, without the alignment; `place` is device and dtype, as for `load_model`.

        Raises:
            VocabridgeError: A file is missing or altered, or a model is not the one that the bridge was saved with.
        """
        path = self.folder / BRIDGE
        if set(self.source) == _PAIR:
            return ExpertPair(*(_load(self.source[role], path, **place) for role in ("tuned", "untuned")))
        network, small = self.source["value_network"], self.source["source_model"]
        try:
            small.check_place()
            self._check_network(network)
            folder = Path(network.name)
            source = load_value_network(
                folder, source=small.name, revision=small.revision, adapted=small.adapted, **place
            )
            small.check_tokenizer(source.vocabulary.fingerprint)
        except VocabridgeError as error:
            raise VocabridgeError(f"{path}: {error}") from error
        return source

    def _check_network(self, network: Reference) -> None:
        folder = Path(network.name)
        if not is_value_network(folder):
            raise VocabridgeError(f"{folder} is not there any more; put it back, or correct its name")
        if file_digest(folder / CONFIG) != network.digest:
            raise VocabridgeError(
                f"{folder} has another {CONFIG} now than when the bridge was saved; put the old one back, or make the "
                "bridge again"
            )
        check_network_files(folder)

    def _checked_alignment(self) -> Path:
        """Return the path of the alignment's file, which may not exist, after a check of its digest."""
        path = self.folder / self.alignment
        if path.is_file() and file_digest(path) != self.sha256:
            raise VocabridgeError(
                f"{path}: altered or damaged, it is not the alignment that the bridge was saved with; copy or make the "
                "bridge again"
            )
        return path


@dataclass(frozen=True)
class SavedBridge:
    """The content of `bridge.json`.

    Attributes:
        folder: The bridge's folder.
        base: The reference to the base model.
        limits: The limits of steering.
        steerings: The steerings.
    """

    folder: Path
    base: Reference
    limits: SteeringLimits
    steerings: list[SavedSteering]

    @classmethod
    def read(cls, folder: Path) -> SavedBridge:
        """Read `bridge.json`, without loading anything that it names.

        Raises:
            VocabridgeError: The folder is no bridge, or its `bridge.json` is damaged.
        """
        path = folder / BRIDGE
        try:
            values = read_json(path)
            if isinstance(values, dict) and values.get("format") != FORMAT:
                raise VocabridgeError(
                    f"it is of format {values.get('format')}, and this version reads {FORMAT}; make the bridge again"
                )
            names = ("format", "version", "base", "limits", "steerings")
            _, _, base, limits, steerings = _entries(values, names, "a bridge")
            if not isinstance(steerings, list):
                raise VocabridgeError("its steerings are not a list; correct it")
            saved_steerings = [SavedSteering.from_dict(steering, folder) for steering in steerings]
            return cls(folder, Reference.from_dict(base, folder), SteeringLimits.from_dict(limits), saved_steerings)
        except FileNotFoundError:
            raise VocabridgeError(
                f"{folder} is no bridge, there is no {BRIDGE}; `vocabridge bridge` makes one"
            ) from None
        except (OSError, ValueError) as error:
            raise VocabridgeError(f"{path} cannot be read ({error}); copy or make the bridge again") from error
        except VocabridgeError as error:
            raise VocabridgeError(f"{path}: {error}") from error

    @property
    def has_limits(self) -> bool:
        """Whether the bridge has limits of steering."""
        return self.limits != SteeringLimits()

    def check(self, *, alignments: bool = True) -> None:
        """Check, without loading a model, that all parts exist and are the ones that the bridge was saved with.

        Args:
            alignments: Whether to check the alignments, too, which a byte-level bridge does not need.

        Raises:
            VocabridgeError: A file is missing, damaged or altered.
        """
        try:
            self.base.check_place()
        except VocabridgeError as error:
            raise VocabridgeError(f"{self.folder / BRIDGE}: {error}") from error
        for steering in self.steerings:
            steering.check(alignment=alignments)

    def load_base(self, **place: Any) -> LoadedModel:
        """Load the base model; `place` is its device and dtype, as for `load_model`.

        Raises:
            VocabridgeError: The model is not the one that the bridge was saved with.
        """
        return _load(self.base, self.folder / BRIDGE, **place)

    def check_byte_level(self) -> None:
        """Check that the bridge can be loaded as a byte-level bridge.

        Raises:
            VocabridgeError: The bridge has limits.
        """
        if self.has_limits:
            raise VocabridgeError(
                f"{self.folder / BRIDGE}: its limits are for logits of tokens, which a byte-level bridge has none of; "
                "take them out"
            )


def _entries(values: Any, names: tuple[str, ...], what: str) -> tuple[Any, ...]:
    """Return the values of a JSON object that has exactly these names."""
    if not isinstance(values, dict) or set(values) != set(names):
        actual = ", ".join(values) if isinstance(values, dict) else repr(values)
        raise VocabridgeError(f"{what} has {', '.join(names)}, and this one {actual}; copy or make the bridge again")
    return tuple(values[name] for name in names)


def _load(reference: Reference, path: Path, **place: Any) -> LoadedModel:
    """Load the model of a reference in the file at `path`, and check it before and after."""
    try:
        reference.check_place()
        loaded = load_model(reference.name, revision=reference.revision, adapted=reference.adapted, **place)
        reference.check_tokenizer(loaded.vocabulary.fingerprint)
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from error
    return loaded
