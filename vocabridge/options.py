"""The enums of all named choices. This module does not import torch, so that the command line can list the names."""

from __future__ import annotations

import enum
from enum import Enum


class BoundaryPolicy(enum.Enum):
    """How a source predicts at a token boundary of the target, where a source token may not end.

    Attributes:
        SKIP: The source is inactive where it would probably continue its last token (`token_healing` computes that
            probability), or where the text ends inside a character.
        AS_IS: The source predicts after the text so far, as its own tokenizer encodes it.
        HEAL: The source's predictions are averaged over all tokenizations of the text so far, weighted by the source's
            own probabilities (`token_healing`).
        LOOKAHEAD: As HEAL, and where a source token may begin several target tokens, the source also predicts what
            follows its token (`lookahead`). Only for methods of distributions.
    """

    SKIP = "skip"
    AS_IS = "as-is"
    HEAL = "heal"
    LOOKAHEAD = "lookahead"


class Contender(str, Enum):
    """What an evaluation can compare, in the order of its tables; `vocabridge.evaluation.contenders` implements them.

    Attributes:
        BASE: The unchanged base model.
        DONOR: The small tuned model alone, in its own vocabulary.
        BRIDGE: The base steered by the small model, with vocabridge's methods.
        BYTE_LEVEL: The bridge without a projection, byte by byte; slow, so measured only on request.
        MIXTURE: A mixture of the base's and the donor's probabilities, with the static method and the policy `as-is`.
        NUDGING: The base, with the donor in its place wherever the base is unsure.
        PROXY_TUNING: The sum of proxy-tuning at weights (1, 1, 1), with the static method and the policy `as-is`.
        CONTROL: The base with a value network of the same vocabulary, so that nothing is projected.
        CEILING: The base after fine-tuning.
    """

    BASE = "base"
    DONOR = "donor"
    BRIDGE = "bridge"
    BYTE_LEVEL = "byte-level"
    MIXTURE = "mixture"
    NUDGING = "nudging"
    PROXY_TUNING = "proxy-tuning"
    CONTROL = "control"
    CEILING = "ceiling"


class Dtype(str, Enum):
    """The dtype of a model's weights, by its name in torch."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Scheme(str, Enum):
    """The input of a value network; `vocabridge.models.joint_forward` has the equations."""

    RESIDUAL = "residual"
    CASCADE = "cascade"
    CASCADE_PLUS = "cascade+"

    @property
    def takes_base(self) -> bool:
        """Whether the base's predictions are part of the input, so that the base has to run first."""
        return self is not Scheme.RESIDUAL


class Initialization(str, Enum):
    """The initial weights of a value network; its change of logits starts at 0 either way."""

    PRETRAINED = "pretrained"
    RANDOM = "random"


class TrainingMethod(str, Enum):
    """Which weights of a value network are trained."""

    FULL = "full"
    LORA = "lora"


class Precision(str, Enum):
    """The dtype of the computations of training, by its name in torch."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class ProjectionMethod(enum.Enum):
    """How scores on the source vocabulary become scores on the target vocabulary; see `vocabridge.projection`.

    Attributes:
        LINEAR: R @ z_delta.
        EXPONENTIAL: log(R @ exp(z_delta)).
        STATIC: C @ p, for the donor's distributions with and without the delta. At weights (1, 1, 1) the change of
            logits is the log-ratio of the two results.
        INFORMED: The base model's probabilities split each source token's mass, for both distributions.
    """

    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    STATIC = "static"
    INFORMED = "informed"


class Form(enum.Enum):
    """How the base's distribution and the projected ones are combined; see `vocabridge.projection.combination`.

    Attributes:
        PRODUCT: A weighted sum of logits, in which each model can exclude a token.
        MIXTURE: A weighted sum of probabilities, in which each model can add a token. For methods of distributions.
    """

    PRODUCT = "product"
    MIXTURE = "mixture"


class Regularizer(str, Enum):
    """The term that training adds to the loss; see `vocabridge.training.objective`."""

    L1 = "l1"
    RELEASED = "released"
