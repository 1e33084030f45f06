"""vocabridge: transfer what a small model learned in post-training to a big model of another family.

The names below are imported on first use, so that importing the package is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment as Alignment
    from vocabridge.alignment import VocabridgeError as VocabridgeError
    from vocabridge.alignment import Vocabulary as Vocabulary
    from vocabridge.alignment import align as align
    from vocabridge.bridge.build import build_bridge as build_bridge
    from vocabridge.bridge.build import build_steering as build_steering
    from vocabridge.bridge.cache import BridgeCache as BridgeCache
    from vocabridge.bridge.chat import chat_prompt as chat_prompt
    from vocabridge.bridge.fitting import fit_combination as fit_combination
    from vocabridge.bridge.limits import SteeringLimits as SteeringLimits
    from vocabridge.bridge.logits_processor import SteeringLogitsProcessor as SteeringLogitsProcessor
    from vocabridge.bridge.model import Bridge as Bridge
    from vocabridge.bridge.saving import load as load
    from vocabridge.bridge.saving import save_bridge as save_bridge
    from vocabridge.bridge.steering import Steering as Steering
    from vocabridge.bridge.streaming import stream as stream
    from vocabridge.byte_level.byte_bridge import ByteLevelBridge as ByteLevelBridge
    from vocabridge.byte_level.byte_lm import ByteLM as ByteLM
    from vocabridge.decoding.stop_strings import StopStrings as StopStrings
    from vocabridge.evaluation.config import EvaluationConfig as EvaluationConfig
    from vocabridge.evaluation.evaluate import evaluate as evaluate
    from vocabridge.evaluation.results import Evaluation as Evaluation
    from vocabridge.models.expert_pair import ExpertPair as ExpertPair
    from vocabridge.models.loading import load_model as load_model
    from vocabridge.models.value_network import ValueNetwork as ValueNetwork
    from vocabridge.models.value_network import load_value_network as load_value_network
    from vocabridge.options import BoundaryPolicy as BoundaryPolicy
    from vocabridge.options import Contender as Contender
    from vocabridge.options import Dtype as Dtype
    from vocabridge.options import Form as Form
    from vocabridge.options import Initialization as Initialization
    from vocabridge.options import Precision as Precision
    from vocabridge.options import ProjectionMethod as ProjectionMethod
    from vocabridge.options import Regularizer as Regularizer
    from vocabridge.options import Scheme as Scheme
    from vocabridge.options import TrainingMethod as TrainingMethod
    from vocabridge.projection.combination import Combination as Combination
    from vocabridge.projection.config import BoundaryConfig as BoundaryConfig
    from vocabridge.projection.strength import Schedule as Schedule
    from vocabridge.training.config import TrainingConfig as TrainingConfig
    from vocabridge.training.train import train_value_network as train_value_network

_MODULES = {
    "alignment": ("Alignment", "VocabridgeError", "Vocabulary", "align"),
    "bridge.build": ("build_bridge", "build_steering"),
    "bridge.cache": ("BridgeCache",),
    "bridge.chat": ("chat_prompt",),
    "bridge.fitting": ("fit_combination",),
    "bridge.limits": ("SteeringLimits",),
    "bridge.logits_processor": ("SteeringLogitsProcessor",),
    "bridge.model": ("Bridge",),
    "bridge.saving": ("load", "save_bridge"),
    "bridge.steering": ("Steering",),
    "bridge.streaming": ("stream",),
    "byte_level.byte_bridge": ("ByteLevelBridge",),
    "byte_level.byte_lm": ("ByteLM",),
    "decoding.stop_strings": ("StopStrings",),
    "evaluation.config": ("EvaluationConfig",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.results": ("Evaluation",),
    "models.expert_pair": ("ExpertPair",),
    "models.loading": ("load_model",),
    "models.value_network": ("ValueNetwork", "load_value_network"),
    "options": (
        "BoundaryPolicy",
        "Contender",
        "Dtype",
        "Form",
        "Initialization",
        "Precision",
        "ProjectionMethod",
        "Regularizer",
        "Scheme",
        "TrainingMethod",
    ),
    "projection.combination": ("Combination",),
    "projection.config": ("BoundaryConfig",),
    "projection.strength": ("Schedule",),
    "training.config": ("TrainingConfig",),
    "training.train": ("train_value_network",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
