"""How to train a value network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vocabridge.options import Initialization, Precision, Regularizer, Scheme, TrainingMethod
from vocabridge.utils.ranges import COUNT, LEARNING_RATE, RANK, SEED, TEXT_LENGTH, WEIGHT
from vocabridge.utils.settings import check_settings, setting

LEARNING_RATES = {TrainingMethod.FULL: 3e-4, TrainingMethod.LORA: 1e-3}
"""What was good for each method."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Each field has its description beside it."""

    source: str = field(
        metadata=setting("The small model, which stays as it is: packaged, hub id, folder or .gguf file.")
    )
    method: TrainingMethod = field(
        default=TrainingMethod.FULL,
        metadata=setting("Train every weight, or an adapter of a few MB on every linear layer."),
    )
    other_bases: tuple[str, ...] = field(
        default=(), metadata=setting("One more model to train on, in turn, of any tokenizer.", option="other_base")
    )
    scheme: Scheme = field(
        default=Scheme.RESIDUAL,
        metadata=setting("What it reads: the tokens, what the source model expects next, or both (cascade+)."),
    )
    layers: int | None = field(
        default=None, metadata=setting("Only the first so many layers of the source model.", COUNT, default="all")
    )
    initialization: Initialization = field(
        default=Initialization.PRETRAINED,
        metadata=setting("Start from the source model's weights, or from random ones."),
    )
    epochs: int = field(default=1, metadata=setting("Passes over the data, at most.", COUNT))
    learning_rate: float | None = field(
        default=None,
        metadata=setting(
            "Peak of the cosine schedule, which has 3% warm-up.",
            LEARNING_RATE,
            default=f"{LEARNING_RATES[TrainingMethod.FULL]}; of an adapter {LEARNING_RATES[TrainingMethod.LORA]}",
        ),
    )
    batch_size: int = field(default=8, metadata=setting("Texts a step, over all processes and parts.", COUNT))
    rank: int = field(default=8, metadata=setting("The adapter's rank.", RANK))
    regularizer: Regularizer = field(
        default=Regularizer.L1,
        metadata=setting(
            "What holds the change of logits back: its size at learned tokens, or at all as in the paper's code."
        ),
    )
    regularizer_weight: float = field(
        default=0.1, metadata=setting("The regularizer's weight; `released` has its own.", WEIGHT)
    )
    max_length: int = field(
        default=1024, metadata=setting("Longest text, in tokens; a longer one is an error, never cut.", TEXT_LENGTH)
    )
    packing: bool = field(
        default=False,
        metadata=setting(
            "Put several texts, each read by itself, in one sequence of up to that length; a step then has a batch of "
            "such sequences."
        ),
    )
    dtype: Precision = field(
        default=Precision.BFLOAT16,
        metadata=setting("What to compute in. Frozen weights are bfloat16 either way, and what is trained is float32."),
    )
    gradient_checkpointing: bool = field(default=False, metadata=setting("Compute activations twice, to save memory."))
    gradient_accumulation: int = field(
        default=1, metadata=setting("Do a process's share of a step in so many parts, to save memory.", COUNT)
    )
    patience: int | None = field(
        default=None,
        metadata=setting("Stop after so many epochs without better validation; keep the best weights.", COUNT),
    )
    seed: int = field(default=0, metadata=setting("Of the order of texts and of what is random at the start.", SEED))

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
