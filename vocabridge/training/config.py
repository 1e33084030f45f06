"""The settings of the training of a value network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from vocabridge.options import Initialization, Precision, Regularizer, Scheme, TrainingMethod
from vocabridge.utils.ranges import COUNT, LEARNING_RATE, RANK, SEED, TEXT_LENGTH, WEIGHT, Range
from vocabridge.utils.settings import check_settings

LEARNING_RATES = {TrainingMethod.FULL: 3e-4, TrainingMethod.LORA: 1e-3}
"""Default learning rates, which worked well for each method."""


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training.

    Attributes:
        source: The small model, which stays unchanged: packaged, hub id, folder, .gguf file or PEFT adapter.
        method: Train all weights, or an adapter of a few MB on every linear layer.
        other_bases: More base models, of any tokenizer, that take turns with the source model.
        scheme: Input: the tokens, the source model's expected next token, or both (cascade+).
        layers: Use only this many first layers of the source model; all by default.
        initialization: Start from the source model's weights, or from random ones.
        epochs: Passes over the data, at most.
        learning_rate: Peak of the cosine schedule with 3% warm-up; by default 0.0003, or 0.001 for an adapter.
        batch_size: Texts per step, over all processes and gradient accumulation parts.
        rank: Rank of the adapter.
        regularizer: Limit the change of logits at learned tokens, or at all tokens as in the paper's code (released).
        regularizer_weight: Weight of the regularizer; `released` has a fixed one.
        max_length: Longest text in tokens; a longer text is an error and never cut.
        packing: Pack texts into sequences of up to that length, each text read by itself; the batch size then counts
            sequences.
        dtype: Dtype of the computation. Trained weights are always float32.
        gradient_checkpointing: Compute activations twice to save memory.
        gradient_accumulation: Number of parts into which a process divides its share of a step, to save memory.
        patience: Stop after this many epochs without better validation, and keep the best weights.
        seed: Seed of the order of texts and of the initial weights.
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
        """Check the settings.

        Raises:
            VocabridgeError: A number is out of range, or a choice does not exist.
        """
        check_settings(self)

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate, by default that of `LEARNING_RATES` for the method."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as in the record of a value network."""
        return asdict(self) | {"learning_rate": self.peak_learning_rate}


def refuse_idle_settings(config: TrainingConfig, validation: str | Path | float | None) -> None:
    """Raise an error for a setting without effect.

    Raises:
        VocabridgeError: A setting has no effect.
    """
    from vocabridge.alignment.errors import Effect, refuse_idle  # imports all of alignment

    default = TrainingConfig(config.source)
    refuse_idle(
        Effect(
            "patience",
            config.patience is not None,
            validation is not None,
            "patience needs texts to validate on; name them, or leave out patience",
        ),
        Effect(
            "rank",
            config.rank != default.rank,
            config.method == "lora",
            "only an adapter has one; take the method lora",
        ),
        Effect(
            "regularizer_weight",
            config.regularizer_weight != default.regularizer_weight,
            config.regularizer is not Regularizer.RELEASED,
            "the regularizer released has its own weight; take l1, or leave this out",
        ),
    )
