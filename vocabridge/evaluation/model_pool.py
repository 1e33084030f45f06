"""What contenders are made of: a base and a value source by name, or the parts of a saved bridge.

A part is loaded when a contender needs it, and let go of when the next one does not.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.build import build_steering, check_steering
from vocabridge.bridge.manifest import SavedBridge
from vocabridge.bridge.steering import Steering
from vocabridge.models.loading import LoadedModel, check_model, load_model
from vocabridge.models.value_network import check_value_source, load_value_source
from vocabridge.models.value_network_files import is_value_network
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy


@dataclass(frozen=True)
class Names:
    """What the contenders are made of, by name: either a base and a value source, or a bridge.

    Attributes:
        base: The base model.
        value: A value network's folder; with `untuned`, the tuned model of an expert pair.
        untuned: The untuned model of the pair.
        alignment: A saved alignment; without one, the default.
        bridge: The folder of a saved bridge, in place of all of these.
        ceiling: The base fine-tuned itself: a model, or the folder of a value network that was trained on it.
        control: The folder of a value network with the base's own vocabulary.
    """

    base: str | None = None
    value: str | None = None
    untuned: str | None = None
    alignment: Path | None = None
    bridge: Path | None = None
    ceiling: str | None = None
    control: str | None = None

    def __post_init__(self) -> None:
        """Checks that it is one of the two.

        Raises:
            VocabridgeError: It is neither, or both.
        """
        named = [self.base, self.value, self.untuned, self.alignment]
        if (self.bridge is None) != (None not in named[:2]) or (self.bridge and any(named)):
            raise VocabridgeError(
                "an evaluation is of a base with a value source, or of a saved bridge that has both; name one of these"
            )

    def check(self, saved: SavedBridge | None) -> None:
        """Checks, before anything is loaded, that all of them are there; `saved` is the bridge.

        Raises:
            VocabridgeError: One is missing or damaged.
        """
        if saved is not None:
            saved.check()
        if self.base is not None and self.value is not None:
            check_model(self.base)
            check_steering(self.value, untuned=self.untuned, alignment=self.alignment)
        if self.ceiling is not None:
            check_value_source(self.ceiling) if is_value_network(self.ceiling) else check_model(self.ceiling)
        if self.control is not None:
            check_value_source(self.control)

    @property
    def source(self) -> str:
        """What steers, for people."""
        value = str(self.bridge or self.value)
        return value if self.untuned is None else f"{value} - {self.untuned}"


class ModelPool:
    """Holds the parts that are in use.

    Attributes:
        saved: The saved bridge, or None.
    """

    def __init__(self, names: Names, device: str, dtype: torch.dtype) -> None:
        """Loads nothing yet.

        Args:
            names: What the contenders are made of.
            device: Where the models go.
            dtype: What their weights are cast to.

        Raises:
            VocabridgeError: The bridge cannot be read.
        """
        self.saved = None if names.bridge is None else SavedBridge.read(names.bridge)
        self._names = names
        self._place: dict[str, Any] = {"device": device, "dtype": dtype}
        self._held: dict[str, Any] = {}

    @property
    def sources(self) -> int:
        """How many value sources there are."""
        return 1 if self.saved is None else len(self.saved.steerings)

    def only(self, needed: set[str]) -> None:
        """Lets go of all parts but "base" or "steerings", as far as these are needed."""
        for name in self._held.keys() - needed:
            del self._held[name]
        gc.collect()  # before anything else is loaded

    def base(self) -> LoadedModel:
        """The base model."""
        if "base" not in self._held:
            name = self._names.base
            if self.saved is not None:
                self._held["base"] = self.saved.load_base(**self._place)
            else:
                assert name is not None
                self._held["base"] = load_model(name, **self._place)
        loaded: LoadedModel = self._held["base"]
        return loaded

    def steerings(self) -> list[Steering]:
        """What steers it, as it was when it was last used."""
        if "steerings" not in self._held:
            target, names = self.base().vocabulary, self._names
            if self.saved is not None:
                steerings = [one.load(target, **self._place) for one in self.saved.steerings]
            else:
                assert names.value is not None
                steerings = [
                    build_steering(target, names.value, untuned=names.untuned, alignment=names.alignment, **self._place)
                ]
            self._held["steerings"] = steerings
        held: list[Steering] = self._held["steerings"]
        return held

    def steering(self) -> Steering:
        """The only one, as it would be without any settings, but for the combination."""
        (steering,) = self.steerings()
        steering.policy, steering.strength = BoundaryPolicy.LOOKAHEAD, 1.0
        return steering

    def value_sources(self) -> list[ValueSource]:
        """The value sources, without alignments if there are none yet."""
        if "steerings" in self._held:
            return [steering.source for steering in self._held["steerings"]]
        if self.saved is not None:
            return [one.load_source(**self._place) for one in self.saved.steerings]
        assert self._names.value is not None
        return [load_value_source(self._names.value, untuned=self._names.untuned, **self._place)]
