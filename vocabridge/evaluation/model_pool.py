"""The models of an evaluation: a base and a value source by name, or the parts of a saved bridge, and what goes beside.

A model is loaded when a contender needs it, and let go of when the next one does not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Set
from typing import Any, TypeVar

import torch

from vocabridge.bridge.build import build_steering, check_steering
from vocabridge.bridge.manifest import SavedBridge
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.models.loading import LoadedModel, check_model, load_model
from vocabridge.models.value_network import ValueNetwork, check_value_source, load_value_network, load_value_source
from vocabridge.models.value_network_files import is_value_network
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy

T = TypeVar("T")


class ModelPool:
    """Holds the models that are in use.

    Attributes:
        config: Names them.
        saved: The saved bridge, or None.
    """

    def __init__(self, config: EvaluationConfig, device: str) -> None:
        """Load nothing yet.

        Args:
            config: Names the models and what their weights are cast to.
            device: Where the models go.

        Raises:
            VocabridgeError: The bridge cannot be read.
        """
        self.config = config
        self.saved = None if config.bridge is None else SavedBridge.read(config.bridge)
        self._place: dict[str, Any] = {"device": device, "dtype": getattr(torch, config.dtype.value)}
        self._held: dict[str, Any] = {}

    @property
    def sources(self) -> int:
        """How many value sources there are."""
        return 1 if self.saved is None else len(self.saved.steerings)

    def check(self) -> None:
        """Check, before anything is loaded, that all of them are there.

        Raises:
            VocabridgeError: One is missing or damaged.
        """
        config = self.config
        if self.saved is not None:
            self.saved.check()
        if config.base is not None and config.value is not None:
            check_model(config.base)
            check_steering(
                config.value, untuned=config.untuned, alignment=config.alignment, combination=config.combination
            )
        if config.ceiling is not None:
            check_value_source(config.ceiling) if is_value_network(config.ceiling) else check_model(config.ceiling)
        if config.control is not None:
            check_value_source(config.control)

    def retain(self, required_models: Set[str]) -> None:
        """Let go of all models but "base", "steerings", "control" or "ceiling", as far as these are required."""
        for name in self._held.keys() - required_models:
            del self._held[name]
        gc.collect()  # before anything else is loaded

    def base(self) -> LoadedModel:
        """Return the base model."""
        name, saved = self.config.base, self.saved
        if saved is not None:
            return self._hold("base", lambda: saved.load_base(**self._place))
        assert name is not None
        return self._hold("base", lambda: load_model(name, **self._place))

    def steerings(self) -> list[Steering]:
        """Return what steers it, as it was when it was last used."""
        return self._hold("steerings", self._load_steerings)

    def steering(self) -> Steering:
        """Return the only one, as it would be without any settings, but for the combination."""
        (steering,) = self.steerings()
        steering.policy, steering.strength = BoundaryPolicy.LOOKAHEAD, 1.0
        return steering

    def value_sources(self) -> list[ValueSource]:
        """Return the value sources, without alignments if there are none yet."""
        if "steerings" in self._held:
            return [steering.source for steering in self._held["steerings"]]
        if self.saved is not None:
            return [one.load_source(**self._place) for one in self.saved.steerings]
        assert self.config.value is not None
        return [load_value_source(self.config.value, untuned=self.config.untuned, **self._place)]

    def control(self) -> ValueNetwork:
        """Return the value network that has the base's own vocabulary."""
        name = self.config.control
        assert name is not None
        return self._hold("control", lambda: load_value_network(name, **self._place))

    def ceiling(self) -> LoadedModel | ValueNetwork:
        """Return the base fine-tuned: a model, or a value network that was trained on it."""
        name = self.config.ceiling
        assert name is not None
        load: Callable[..., LoadedModel | ValueNetwork] = load_value_network if is_value_network(name) else load_model
        return self._hold("ceiling", lambda: load(name, **self._place))

    def _load_steerings(self) -> list[Steering]:
        target, config = self.base().vocabulary, self.config
        if self.saved is not None:
            return [one.load(target, **self._place) for one in self.saved.steerings]
        assert config.value is not None
        steering = build_steering(
            target, config.value, untuned=config.untuned, alignment=config.alignment, **self._place
        )
        return [steering]

    def _hold(self, name: str, load: Callable[[], T]) -> T:
        if name not in self._held:
            self._held[name] = load()
        held: T = self._held[name]
        return held
