"""vocabridge: carry what a small model learned in post-training to a big model of another family.

The names below are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment, VocabridgeError, Vocabulary, align
    from vocabridge.bridge import Bridge
    from vocabridge.bridge_cache import BridgeCache
    from vocabridge.byte_model import ByteModel
    from vocabridge.chat import chat_prompt
    from vocabridge.combination import Carry, Combination, Form
    from vocabridge.evaluation import evaluate
    from vocabridge.exact import ExactBridge
    from vocabridge.fitting import fit_combination
    from vocabridge.folder import load, save_bridge
    from vocabridge.guard import Guard
    from vocabridge.loading import build_bridge, build_steering
    from vocabridge.models import load_model
    from vocabridge.policy import Policy
    from vocabridge.processor import SteeringProcessor
    from vocabridge.regulariser import Regulariser
    from vocabridge.scheme import Initialisation, Scheme, Turns
    from vocabridge.steering import Steering
    from vocabridge.stopping import StopStrings
    from vocabridge.streaming import stream
    from vocabridge.strength import Schedule
    from vocabridge.summary import Evaluation
    from vocabridge.training import Recipe, train_value_network
    from vocabridge.value_network import load_value_network
    from vocabridge.value_source import ContrastPair, ValueNetwork

_HOMES = {
    "alignment": ("Alignment", "VocabridgeError", "Vocabulary", "align"),
    "bridge": ("Bridge",),
    "bridge_cache": ("BridgeCache",),
    "byte_model": ("ByteModel",),
    "chat": ("chat_prompt",),
    "combination": ("Carry", "Combination", "Form"),
    "evaluation": ("evaluate",),
    "exact": ("ExactBridge",),
    "fitting": ("fit_combination",),
    "folder": ("load", "save_bridge"),
    "guard": ("Guard",),
    "loading": ("build_bridge", "build_steering"),
    "models": ("load_model",),
    "policy": ("Policy",),
    "processor": ("SteeringProcessor",),
    "regulariser": ("Regulariser",),
    "scheme": ("Initialisation", "Scheme", "Turns"),
    "steering": ("Steering",),
    "stopping": ("StopStrings",),
    "streaming": ("stream",),
    "strength": ("Schedule",),
    "summary": ("Evaluation",),
    "training": ("Recipe", "train_value_network"),
    "value_network": ("load_value_network",),
    "value_source": ("ContrastPair", "ValueNetwork"),
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
