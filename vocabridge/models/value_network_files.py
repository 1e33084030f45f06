"""Reading the folder of a value network: its configuration and its weights, with checks of both."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.errors import refuse_empty
from vocabridge.alignment.inputs import refuse_gzip
from vocabridge.alignment.jsonio import read_json
from vocabridge.data import VALUE_NETWORKS
from vocabridge.models.loading_checks import check_finite
from vocabridge.options import Initialization, Scheme
from vocabridge.utils.digest_cache import cached_file_digest
from vocabridge.utils.hashing import file_digest, json_digest

WEIGHTS = "value_network.safetensors"
CONFIG = "value_network.json"
FORMAT = 6

DIGESTS = {"weights": "sha256", "source": "source_identity", "revision": "source_revision"}
"""The keys of `value_network.json` that hold `Digests`, by attribute."""


@dataclass(frozen=True)
class ValueNetworkConfig:
    """What `value_network.json` holds.

    Attributes:
        source: The source model by name: a short name, a folder, a GGUF file or a hub id.
        fingerprint: The fingerprint of the source vocabulary.
        method: "lora" or "full".
        rank: The rank of the LoRA adapter; None for "full".
        scheme: What the value network reads.
        layers: How many of the source model's first layers the value network has; None for all.
        initialization: What the value network started from.
        training: The training config and the losses, as information for people.
    """

    source: str
    fingerprint: str
    method: str
    rank: int | None = None
    scheme: Scheme = Scheme.RESIDUAL
    layers: int | None = None
    initialization: Initialization = Initialization.PRETRAINED
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Digests:
    """What identifies the weights and the source model that a value network was saved with.

    Attributes:
        weights: The SHA-256 of `value_network.safetensors`.
        source: The `Reference.identity` of the source model.
        revision: The commit of the source model, if it is on the hub.
    """

    weights: str
    source: str
    revision: str | None

    def checksum(self, config: ValueNetworkConfig) -> str:
        """Return the SHA-256 of all that decides what the network computes; the source model may move, so not its name.

        Args:
            config: The configuration that is saved with the weights.
        """
        settings = {name: value for name, value in asdict(config).items() if name not in ("source", "training")}
        return json_digest([settings, asdict(self)])


def network_folder(name: str | Path) -> Path:
    """Return the folder of a value network: that of a shipped one by its short name, else the name as a path.

    Raises:
        VocabridgeError: The name is empty.
    """
    refuse_empty(name, "value network")
    return VALUE_NETWORKS.get(str(name), Path(name))


def is_value_network(name: str | Path) -> bool:
    """Whether a folder holds a value network, or a name is the short name of one."""
    return (network_folder(name) / CONFIG).is_file()


def check_network_files(folder: Path) -> str:
    """Check that a value network's files exist and that its weights are unchanged.

    Returns:
        The name of its source model, which is not checked.

    Raises:
        VocabridgeError: A file is missing or damaged, or the weights or settings have changed.
    """
    config, digests = read_config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise _missing_error(path)
    if cached_file_digest(path) != digests.weights:
        raise _altered_error(path)
    return config.source


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read the tensors of a file.

    Args:
        path: The safetensors file.
        sha256: The hash that the file must have.

    Raises:
        VocabridgeError: The file is missing, damaged or altered, or holds weights that are not finite.
    """
    refuse_gzip(path)
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise _missing_error(path) from None
    except Exception as error:
        raise VocabridgeError(f"{path} is damaged ({error}); copy or train the value network again") from error
    if file_digest(path) != sha256:
        raise _altered_error(path)
    check_finite(str(path), tensors.items())
    return tensors


def _altered_error(path: Path) -> VocabridgeError:
    return VocabridgeError(
        f"{path.parent} has other weights now than when it was saved: {path.name} is altered or damaged; copy or train "
        "the value network again"
    )


def _missing_error(path: Path) -> VocabridgeError:
    return VocabridgeError(f"there is no file {path}; a value network's folder holds {WEIGHTS} and {CONFIG}")


def read_config(path: Path) -> tuple[ValueNetworkConfig, Digests]:
    """Read `value_network.json`.

    Raises:
        VocabridgeError: The file is missing, is not a value network's configuration, or has other settings than were
            saved.
    """
    try:
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise TypeError("it holds no JSON object")
        if (format_number := fields.pop("format", 1)) != FORMAT:
            raise ValueError(f"it has format {format_number}, and this version reads format {FORMAT}")
        checksum = fields.pop("checksum")
        digests = Digests(**{name: fields.pop(key) for name, key in DIGESTS.items()})
        if not all(isinstance(fields[name], str) for name in ("source", "fingerprint", "method")):
            raise TypeError("source, fingerprint and method are strings")
        if not isinstance(fields.get("layers"), int | None):
            raise TypeError("layers is a number or null")
        choices = {
            name: choice(fields[name])
            for name, choice in (("scheme", Scheme), ("initialization", Initialization))
            if name in fields
        }
        config = ValueNetworkConfig(**fields | choices)
    except FileNotFoundError:
        raise VocabridgeError(
            f"there is no file {path}; give the folder of a trained value network, or the short name of one that ships "
            f"with vocabridge: {', '.join(VALUE_NETWORKS)}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise VocabridgeError(
            f"{path} is not a value network's configuration ({error}); copy or train it again"
        ) from error
    if digests.checksum(config) != checksum:
        raise VocabridgeError(
            f"{path} has other settings now than when the value network was saved: only source and training may be "
            "edited; copy or train it again"
        )
    return config, digests
