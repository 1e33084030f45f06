"""Every choice that has a name; the command line reads the names without torch."""

from __future__ import annotations

import enum
from enum import Enum


class BoundaryPolicy(enum.Enum):
    """What a source says at a boundary of the target's at which its own token may not end.

    Attributes:
        SKIP: Nothing, where its own distribution would rather run on (`heal` tells) or a character is not whole.
        AS_IS: What it says after the text so far, cut by its own tokenizer as it stands.
        HEAL: All ways to cut the text so far, weighted by its own probabilities (`token_healing`).
        LOOKAHEAD: The same, and where a source token may be the beginning of several target tokens, the source is
            asked what follows it (`lookahead`). Only for methods of distributions.
    """

    SKIP = "skip"
    AS_IS = "as-is"
    HEAL = "heal"
    LOOKAHEAD = "lookahead"


class Contender(str, Enum):
    """What can be compared in an evaluation, in the order of the tables; `contenders` makes each.

    Attributes:
        BASE: The base model as it is.
        DONOR: The small tuned model alone, in its own vocabulary.
        BRIDGE: The base steered by the small model, with vocabridge's methods.
        BYTE_LEVEL: The same without projection, over bytes; slow, so measured only where it is asked for.
        MIXTURE: A mixture of the base's and the donor's probabilities, by the static method and the text as it stands.
        NUDGING: Where the base is unsure, the donor speaks in its place.
        PROXY_TUNING: Proxy-tuning's sum at weights (1, 1, 1), by the static method and the text as it stands.
        CONTROL: The base with a value network of its own vocabulary, so that nothing is projected.
        CEILING: The base fine-tuned itself.
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
    """What the weights of a model are cast to, by torch's names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Scheme(str, Enum):
    """What a value network reads; `joint_forward` has the equations."""

    RESIDUAL = "residual"
    CASCADE = "cascade"
    CASCADE_PLUS = "cascade+"

    @property
    def takes_base(self) -> bool:
        """Whether the base's predictions are read, so that the base has to run first."""
        return self is not Scheme.RESIDUAL


class Initialization(str, Enum):
    """What a value network starts from; its change of logits is 0 either way."""

    PRETRAINED = "pretrained"
    RANDOM = "random"


class TrainingMethod(str, Enum):
    """What of a value network is trained."""

    FULL = "full"
    LORA = "lora"


class Precision(str, Enum):
    """What training computes in, by torch's names."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class ProjectionMethod(enum.Enum):
    """How scores get from the source vocabulary to the target's; see `projection`.

    Attributes:
        LINEAR: W @ z_delta.
        EXPONENTIAL: log(R @ exp(z_delta)).
        STATIC: C @ p, for the donor with and without the delta: the log-ratio at weights (1, 1, 1).
        INFORMED: The base model itself splits each source token's mass, for both distributions.
    """

    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    STATIC = "static"
    INFORMED = "informed"


class Form(enum.Enum):
    """What is made of the base's distribution and the projected ones; see `projection.combination` for the equations.

    Attributes:
        PRODUCT: A weighted sum of logits: each model can rule a token out.
        MIXTURE: A weighted sum of probabilities: each model can bring a token in. For methods of distributions.
    """

    PRODUCT = "product"
    MIXTURE = "mixture"


class Regularizer(str, Enum):
    """What is added to the loss; see `vocabridge.training.objective`."""

    L1 = "l1"
    RELEASED = "released"
