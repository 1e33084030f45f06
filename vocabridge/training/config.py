"""How to train a value network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vocabridge.alignment import Effect, refuse_idle
from vocabridge.options import Initialization, Regularizer, Scheme
from vocabridge.utils.ranges import COUNT, LEARNING_RATE, RANK, SEED, TEXT_LENGTH, WEIGHT

_RANGES = {
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

LEARNING_RATES = {"full": 3e-4, "lora": 1e-3}


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        source: The source model by name: the small model that the value network changes.
        method: "full" or "lora" (an adapter on every linear layer).
        other_bases: Bases to train on beside the source model, in turn, by name, of any tokenizer.
        scheme: What the value network reads of the source model.
        layers: It has the first so many layers of the source model; None for all.
        initialization: Whether it starts from the source model's weights.
        epochs: Passes over the data, at most.
        learning_rate: Peak of a cosine schedule with 3% warm-up; `LEARNING_RATES` has what was good for a method.
        batch_size: Texts a step, over all processes and parts.
        rank: The adapter's rank.
        regularizer: What is added to the loss.
        regularizer_weight: Its weight; `released` has its own.
        max_length: Longest text in tokens; longer ones are an error, never cut.
        packing: Whether several texts share a sequence of up to `max_length` tokens, each read by itself; a step then
            has `batch_size` such sequences.
        dtype: "bfloat16" or "float32": what is computed in. The frozen weights are bf16 numbers either way, what is
            trained is float32.
        gradient_checkpointing: Whether to compute activations twice instead of keeping them.
        gradient_accumulation: In how many parts a process does its share of a step, one after the other.
        patience: Stop when validation has not become better for so many epochs, and take the best weights; None for
            all epochs and the last weights.
        seed: Of the order of texts and of what is random at the start.
    """

    source: str
    method: str = "full"
    other_bases: tuple[str, ...] = ()
    scheme: Scheme = Scheme.RESIDUAL
    layers: int | None = None
    initialization: Initialization = Initialization.PRETRAINED
    epochs: int = 1
    learning_rate: float = 3e-4
    batch_size: int = 8
    rank: int = 8
    regularizer: Regularizer = Regularizer.L1
    regularizer_weight: float = 0.1
    max_length: int = 1024
    packing: bool = False
    dtype: str = "bfloat16"
    gradient_checkpointing: bool = False
    gradient_accumulation: int = 1
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            VocabridgeError: One is out of range.
        """
        for name, range_ in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                range_.check(name, value)


def refuse_idle_settings(config: TrainingConfig, validation: str | Path | float | None) -> None:
    """Refuse settings without effect."""
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
