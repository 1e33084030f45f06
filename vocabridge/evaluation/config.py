"""What to evaluate, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from vocabridge.data import A_VALUE_NETWORK
from vocabridge.options import BoundaryPolicy, Contender, Dtype
from vocabridge.utils.ranges import COUNT, COUNT_OR_NONE, STRENGTH, TOLERANCES
from vocabridge.utils.settings import check_settings, setting

_OF_A_BRIDGE = ("base", "value", "untuned", "alignment", "combination", "policies", "alphas")
"""What a saved bridge has of its own."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, and how: a base with a value source, or a saved bridge that has both.

    Each field has its description beside it.
    """

    data: str | Path = field(metadata=setting("Items to test on: a JSONL file, or a task of reasoning-gym."))
    base: str | None = field(default=None, metadata=setting("The base model: packaged, hub id, folder or .gguf file."))
    value: str | None = field(
        default=None,
        metadata=setting(
            f"What steers: {A_VALUE_NETWORK}; with an untuned model, the tuned small model, or a PEFT adapter of it."
        ),
    )
    untuned: str | None = field(
        default=None, metadata=setting("The small model before tuning: what tuning changed in it steers the base.")
    )
    alignment: Path | None = field(
        default=None, metadata=setting("An alignment of the two. Without it: from the cache, or built.")
    )
    bridge: Path | None = field(
        default=None,
        metadata=setting(
            "A bridge that `vocabridge bridge` wrote, as it is, in place of a base, a value source and their settings."
        ),
    )
    validation: str | Path | None = field(
        default=None, metadata=setting("Items on which weights, policy, alpha and threshold are chosen.")
    )
    combination: Path | None = field(default=None, metadata=setting("Fitted weights: a report that `eval -o` wrote."))
    policies: tuple[BoundaryPolicy, ...] | None = field(
        default=None,
        metadata=setting(
            "Policy of the bridge at token boundaries; of several, the best on the validation items is taken.",
            option="policy",
            default="lookahead",
        ),
    )
    alphas: tuple[float, ...] | None = field(
        default=None,
        metadata=setting(
            "Strength of the bridge; of several, the best on the validation items is taken.",
            STRENGTH,
            option="alpha",
            default="1",
        ),
    )
    ceiling: str | None = field(
        default=None,
        metadata=setting("The base model fine-tuned itself, by name, or a value network trained on it."),
    )
    control: str | None = field(
        default=None,
        metadata=setting("A value network with the base's own vocabulary, to see what projecting costs."),
    )
    contenders: tuple[Contender, ...] | None = field(
        default=None,
        metadata=setting(
            f"Which to compare: {', '.join(contender.value for contender in Contender)}. By default all that can be "
            "made, without byte-level, which is slow."
        ),
    )
    prompt: str = field(default="{prompt}", metadata=setting("How a line's fields make a prompt; \\n is a line break."))
    response: str = field(default="{response}", metadata=setting("How they make a response."))
    extract: str | None = field(
        default=None,
        metadata=setting(
            "Regular expression that finds the final answer in a text: its first group, or all of it.",
            default="the number after ####, else the last number",
        ),
    )
    limit: int | None = field(default=None, metadata=setting("Take only so many items, the first ones.", COUNT))
    answers: int | None = field(
        default=None,
        metadata=setting(
            "Ask for the answers of only so many items.",
            COUNT_OR_NONE,
            default="all with a final answer, or a few to show",
        ),
    )
    max_new_tokens: int = field(default=96, metadata=setting("The longest answer, in tokens.", COUNT))
    tolerance: float | None = field(
        default=None,
        metadata=setting(
            "Of byte-level: the share of each model's mass that may be left out at a byte.", TOLERANCES, default="1e-6"
        ),
    )
    dtype: Dtype = field(default=Dtype.BFLOAT16, metadata=setting("What the weights of all models are cast to."))

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything.

        Raises:
            VocabridgeError: A number is out of range, there is no such choice, or the settings do not go together.
        """
        from vocabridge.alignment.errors import UsageError, VocabridgeError  # with all of alignment

        check_settings(self)
        of_a_bridge = [one for one in fields(self) if one.name in _OF_A_BRIDGE and getattr(self, one.name) is not None]
        given = [one.metadata["option"] or one.name for one in of_a_bridge]
        if self.bridge is not None and given:
            raise UsageError("bridge", f"has its own {', '.join(given)}; leave these out")
        if self.bridge is None and (self.base is None or self.value is None):
            raise UsageError("bridge", "is not given, nor a base and a value source; give one of these")
        for chosen, what in ((self.policies, "policies"), (self.alphas, "alphas")):
            if self.validation is None and len(chosen or ()) > 1:
                raise VocabridgeError(
                    f"of several {what} the best on validation items is taken; give --validation, or one of them"
                )

    @property
    def tried_policies(self) -> tuple[BoundaryPolicy, ...]:
        """The policies of the bridge to choose from."""
        return self.policies or (BoundaryPolicy.LOOKAHEAD,)

    @property
    def tried_alphas(self) -> tuple[float, ...]:
        """The strengths of the bridge to choose from."""
        return self.alphas or (1.0,)

    @property
    def source(self) -> str:
        """What steers, for people."""
        value = str(self.bridge or self.value)
        return value if self.untuned is None else f"{value} - {self.untuned}"
