"""The models of an evaluation: a base and a value source, by name or of a saved bridge, a ceiling and a control.

A model is loaded when a contender needs it, and released when the next contender does not.
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
        config: The settings of the evaluation, which name the models.
        saved: The saved bridge, or None.
    """

    def __init__(self, config: EvaluationConfig, device: str) -> None:
        """Read the manifest of the saved bridge, if there is one; no model is loaded yet.

        Args:
            config: Names the models and the dtype of their weights.
            device: The device of the models.

        Raises:
            VocabridgeError: The bridge cannot be read.
        """
        self.config = config
        self.saved = None if config.bridge is None else SavedBridge.read(config.bridge)
        self._loading: dict[str, Any] = {"device": device, "dtype": getattr(torch, config.dtype.value)}
        self._loaded: dict[str, Any] = {}

    @property
    def sources(self) -> int:
        """The number of value sources."""
        return 1 if self.saved is None else len(self.saved.steerings)

    def check(self) -> None:
        """Check, before any model is loaded, that all models are there.

        Raises:
            VocabridgeError: A model is missing or damaged.
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
        """Release all models but those required: a set of "base", "steerings", "control" and "ceiling"."""
        for name in self._loaded.keys() - required_models:
            del self._loaded[name]
        gc.collect()  # frees their memory before another model is loaded

    def base(self) -> LoadedModel:
        """Return the base model."""
        name, saved = self.config.base, self.saved
        if saved is not None:
            return self._get("base", lambda: saved.load_base(**self._loading))
        assert name is not None
        return self._get("base", lambda: load_model(name, **self._loading))

    def steerings(self) -> list[Steering]:
        """Return the steerings, with the settings of their last use."""
        return self._get("steerings", self._load_steerings)

    def steering(self) -> Steering:
        """Return the only steering, with the default policy and strength; its combination is that of its last use."""
        (steering,) = self.steerings()
        steering.policy, steering.strength = BoundaryPolicy.LOOKAHEAD, 1.0
        return steering

    def value_sources(self) -> list[ValueSource]:
        """Return the value sources; alignments are not loaded for them."""
        if "steerings" in self._loaded:
            return [steering.source for steering in self._loaded["steerings"]]
        if self.saved is not None:
            return [steering.load_source(**self._loading) for steering in self.saved.steerings]
        assert self.config.value is not None
        return [load_value_source(self.config.value, untuned=self.config.untuned, **self._loading)]

    def control(self) -> ValueNetwork:
        """Return the control, a value network with the base model's vocabulary."""
        name = self.config.control
        assert name is not None
        return self._get("control", lambda: load_value_network(name, **self._loading))

    def ceiling(self) -> LoadedModel | ValueNetwork:
        """Return the ceiling: the fine-tuned base model, or a value network trained on the base model."""
        name = self.config.ceiling
        assert name is not None
        load: Callable[..., LoadedModel | ValueNetwork] = load_value_network if is_value_network(name) else load_model
        return self._get("ceiling", lambda: load(name, **self._loading))

    def _load_steerings(self) -> list[Steering]:
        target, config = self.base().vocabulary, self.config
        if self.saved is not None:
            return [steering.load(target, **self._loading) for steering in self.saved.steerings]
        assert config.value is not None
        steering = build_steering(
            target, config.value, untuned=config.untuned, alignment=config.alignment, **self._loading
        )
        return [steering]

    def _get(self, name: str, load: Callable[[], T]) -> T:
        """Return what is loaded under a name, or load it."""
        if name not in self._loaded:
            self._loaded[name] = load()
        loaded: T = self._loaded[name]
        return loaded
