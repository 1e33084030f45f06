"""vocabridge: carry what a small model learned in post-training to a big model of another family.

The names below are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment, VocabridgeError, Vocabulary, align
    from vocabridge.bridge.build import build_bridge, build_steering
    from vocabridge.bridge.cache import BridgeCache
    from vocabridge.bridge.chat import chat_prompt
    from vocabridge.bridge.fitting import fit_combination
    from vocabridge.bridge.limits import SteeringLimits
    from vocabridge.bridge.logits_processor import SteeringLogitsProcessor
    from vocabridge.bridge.model import Bridge
    from vocabridge.bridge.saving import load, save_bridge
    from vocabridge.bridge.steering import Steering
    from vocabridge.bridge.streaming import stream
    from vocabridge.byte_level.byte_bridge import ByteLevelBridge
    from vocabridge.byte_level.byte_lm import ByteLM
    from vocabridge.decoding.stop_strings import StopStrings
    from vocabridge.evaluation.evaluate import evaluate
    from vocabridge.evaluation.results import Evaluation
    from vocabridge.models.expert_pair import ExpertPair
    from vocabridge.models.loading import load_model
    from vocabridge.models.value_network import ValueNetwork, load_value_network
    from vocabridge.options import (
        BaseSchedule,
        BoundaryPolicy,
        Form,
        Initialization,
        ProjectionMethod,
        Regularizer,
        Scheme,
    )
    from vocabridge.projection.combination import Combination
    from vocabridge.projection.strength import Schedule
    from vocabridge.training.train import Recipe, train_value_network

_HOMES = {
    "alignment": ("Alignment", "VocabridgeError", "Vocabulary", "align"),
    "bridge.model": ("Bridge",),
    "bridge.cache": ("BridgeCache",),
    "byte_level.byte_lm": ("ByteModel",),
    "bridge.chat": ("chat_prompt",),
    "projection.combination": ("Carry", "Combination", "Form"),
    "evaluation.evaluate": ("evaluate",),
    "byte_level.byte_bridge": ("ExactBridge",),
    "bridge.fitting": ("fit_combination",),
    "bridge.saving": ("load", "save_bridge"),
    "bridge.limits": ("Guard",),
    "bridge.build": ("build_bridge", "build_steering"),
    "models.loading": ("load_model",),
    "options": ("Policy",),
    "bridge.logits_processor": ("SteeringProcessor",),
    "training.regularizers": ("Regulariser",),
    "scheme": ("Initialisation", "Scheme", "Turns"),
    "bridge.steering": ("Steering",),
    "decoding.stop_strings": ("StopStrings",),
    "bridge.streaming": ("stream",),
    "projection.strength": ("Schedule",),
    "evaluation.results": ("Evaluation",),
    "training.train": ("Recipe", "train_value_network"),
    "models.value_network": ("load_value_network",),
    "models.value_source": ("ContrastPair", "ValueNetwork"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Alignment",
    "Bridge",
    "BridgeCache",
    "ByteModel",
    "Carry",
    "Combination",
    "ContrastPair",
    "Evaluation",
    "ExactBridge",
    "Form",
    "Guard",
    "Initialisation",
    "Policy",
    "Recipe",
    "Regulariser",
    "Schedule",
    "Scheme",
    "Steering",
    "SteeringProcessor",
    "StopStrings",
    "Turns",
    "ValueNetwork",
    "VocabridgeError",
    "Vocabulary",
    "align",
    "build_bridge",
    "build_steering",
    "chat_prompt",
    "evaluate",
    "fit_combination",
    "load",
    "load_model",
    "load_value_network",
    "save_bridge",
    "stream",
    "train_value_network",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
