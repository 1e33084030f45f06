"""How to train a value network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from vocabridge.options import Initialization, Precision, Regularizer, Scheme, TrainingMethod
from vocabridge.utils.ranges import COUNT, LEARNING_RATE, RANK, SEED, TEXT_LENGTH, WEIGHT, Range
from vocabridge.utils.settings import check_settings

LEARNING_RATES = {TrainingMethod.FULL: 3e-4, TrainingMethod.LORA: 1e-3}
"""What was good for each method."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        source: The small model, which stays as it is: packaged, hub id, folder or .gguf file.
        method: Train every weight, or an adapter of a few MB on every linear layer.
        other_bases: More models to train on, in turn, of any tokenizer.
        scheme: What it reads: the tokens, what the source model expects next, or both (cascade+).
        layers: Only the first so many layers of the source model; by default all.
        initialization: Start from the source model's weights, or from random ones.
        epochs: Passes over the data, at most.
        learning_rate: Peak of the cosine schedule, which has 3% warm-up; by default 0.0003, and for an adapter 0.001.
        batch_size: Texts a step, over all processes and parts.
        rank: The adapter's rank.
        regularizer: What holds the change of logits back: its size at learned tokens, or at all as in the paper's code.
        regularizer_weight: The regularizer's weight; `released` has its own.
        max_length: Longest text, in tokens; a longer one is an error, never cut.
        packing: Put several texts, each read by itself, in one sequence of up to that length; a step then has a batch
            of such sequences.
        dtype: What to compute in. Frozen weights are bfloat16 either way, and what is trained is float32.
        gradient_checkpointing: Compute activations twice, to save memory.
        gradient_accumulation: Do a process's share of a step in so many parts, to save memory.
        patience: Stop after so many epochs without better validation; keep the best weights.
        seed: Of the order of texts and of what is random at the start.
    """

    source: str
    method: TrainingMethod = TrainingMethod.FULL
    other_bases: tuple[str, ...] = ()
    scheme: Scheme = Scheme.RESIDUAL
    layers: int | None = None
    initialization: Initialization = Initialization.PRETRAINED
    epochs: int = 1
    learning_rate: float | None = None
    batch_size: int = 8
    rank: int = 8
    regularizer: Regularizer = Regularizer.L1
    regularizer_weight: float = 0.1
    max_length: int = 1024
    packing: bool = False
    dtype: Precision = Precision.BFLOAT16
    gradient_checkpointing: bool = False
    gradient_accumulation: int = 1
    patience: int | None = None
    seed: int = 0

    ranges: ClassVar[Mapping[str, Range]] = {
        "layers": COUNT,
        "epochs": COUNT,
        "learning_rate": LEARNING_RATE,
        "batch_size": COUNT,
        "rank": RANK,
        "regularizer_weight": WEIGHT,
        "max_length": TEXT_LENGTH,
        "gradient_accumulation": COUNT,
        "patience": COUNT,
        "seed": SEED,
    }

    def __post_init__(self) -> None:
        """Check the numbers and the choices.

        Raises:
            VocabridgeError: A number is out of range, or there is no such choice.
        """
        check_settings(self)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, by default what was good for the method."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a value network's record has them."""
        return asdict(self) | {"learning_rate": self.peak_learning_rate}


def refuse_idle_settings(config: TrainingConfig, validation: str | Path | float | None) -> None:
    """Refuse settings without effect."""
    from vocabridge.alignment.errors import Effect, refuse_idle  # with all of alignment

    plain = TrainingConfig(config.source)
    refuse_idle(
        Effect(
            "patience",
            config.patience is not None,
            validation is not None,
            "patience needs texts to validate on; name them, or leave out patience",
        ),
        Effect(
            "rank", config.rank != plain.rank, config.method == "lora", "only an adapter has one; take the method lora"
        ),
        Effect(
            "regularizer_weight",
            config.regularizer_weight != plain.regularizer_weight,
            config.regularizer is not Regularizer.RELEASED,
            "the regularizer released has its own weight; take l1, or leave this out",
        ),
    )
