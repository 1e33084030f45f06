"""A bridge's folder as it is read: what `bridge.json` says, and each part of the bridge, loaded by itself.

`saving.load` puts all parts together; an evaluation loads those that it needs. Every part is checked to be the one that
the bridge was saved with.
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
        source: References to the parts of its value source, by their roles: a value network's or a pair's.
        alignment: Name of its alignment's file.
        sha256: Of that file.
        combination: Method, form and weights.
        policy: What the source says where tokens do not end together.
        strength: alpha.
        boundary_config: The settings of token healing and lookahead.
        folder: The bridge's.
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
        """Of what `bridge.json` says.

        Raises:
            VocabridgeError: That is no steering.
        """
        names = ("source", "alignment", "combination", "policy", "strength", "boundary_config")
        source, alignment, combination, policy, strength, boundary_config = _entries(values, names, "a steering")
        file, sha256 = _entries(alignment, ("file", "sha256"), "an alignment")
        if not isinstance(source, dict) or set(source) not in (_NETWORK, _PAIR):
            raise VocabridgeError(f"a source has {' and '.join(_NETWORK)}, or {' and '.join(_PAIR)}")
        if not isinstance(file, str) or Path(file).name != file:
            raise VocabridgeError(f"{file!r} is no name of a file in this folder")
        policies = [one.value for one in BoundaryPolicy]
        if policy not in policies:
            raise VocabridgeError(f"{policy!r} is no policy; choose among {', '.join(policies)}")
        return cls(
            source={role: Reference.from_dict(one, folder) for role, one in source.items()},
            alignment=file,
            sha256=str(sha256),
            combination=Combination.from_dict(combination),
            policy=BoundaryPolicy(policy),
            strength=from_json(strength),
            boundary_config=BoundaryConfig.from_dict(boundary_config),
            folder=folder,
        )

    def check(self, *, alignment: bool = True) -> None:
        """Checks, without loading a model, that its parts are there and are the ones of then.

        Args:
            alignment: Whether its alignment is one of them.

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
        """The steering, for a base model with this vocabulary; `place` as for `load_source`.

        Raises:
            VocabridgeError: A file is missing, damaged or altered, or a model is not the one of then.
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
        """Its value source, without the alignment; `place` says device and dtype, as for `load_model`.

        Raises:
            VocabridgeError: A file is missing or altered, or a model is not the one of then.
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
        """The file of its alignment, which is the one of then if it is there at all."""
        path = self.folder / self.alignment
        if path.is_file() and file_digest(path) != self.sha256:
            raise VocabridgeError(
                f"{path}: altered or damaged, it is not the alignment that the bridge was saved with; copy or make the "
                "bridge again"
            )
        return path


@dataclass(frozen=True)
class SavedBridge:
    """What `bridge.json` says.

    Attributes:
        folder: The bridge's.
        base: The base model.
        limits: Limits of steering.
        steerings: What steers it.
    """

    folder: Path
    base: Reference
    limits: SteeringLimits
    steerings: list[SavedSteering]

    @classmethod
    def read(cls, folder: Path) -> SavedBridge:
        """Reads the file, and loads nothing yet.

        Raises:
            VocabridgeError: The folder is no bridge, or its file cannot be read.
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
                raise VocabridgeError("its steerings are no list")
            cards = [SavedSteering.from_dict(one, folder) for one in steerings]
            return cls(folder, Reference.from_dict(base, folder), SteeringLimits.from_dict(limits), cards)
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
        """Whether it has limits of steering."""
        return self.limits != SteeringLimits()

    def check(self, *, alignments: bool = True) -> None:
        """Checks, without loading a model, that all parts are there and are the ones of then.

        Args:
            alignments: Whether the alignments are among them, which a byte-level bridge does without.

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
        """The base model; `place` says where it goes, as for `load_model`.

        Raises:
            VocabridgeError: It is not the one of then.
        """
        return _load(self.base, self.folder / BRIDGE, **place)

    def check_byte_level(self) -> None:
        """Check that it can be a byte-level bridge.

        Raises:
            VocabridgeError: It has limits.
        """
        if self.has_limits:
            raise VocabridgeError(
                f"{self.folder / BRIDGE}: its limits are of logits of tokens, which a byte-level bridge has none of; "
                "take them out"
            )


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
        loaded = load_model(reference.name, revision=reference.revision, adapted=reference.adapted, **place)
        reference.check_tokenizer(loaded.vocabulary.fingerprint)
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from error
    return loaded
