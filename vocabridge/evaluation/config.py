"""What to evaluate, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vocabridge.options import BoundaryPolicy, Contender, Dtype
from vocabridge.utils.ranges import COUNT, COUNT_OR_NONE, STRENGTH, TOLERANCES, Range
from vocabridge.utils.settings import check_settings

_OF_A_BRIDGE = ("base", "value", "untuned", "alignment", "combination", "policies", "alphas")
"""What a saved bridge has of its own."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, and how: a base with a value source, or a saved bridge that has both.

    Attributes:
        data: Items to test on: a JSONL file, or a task `reasoning-gym:NAME[:SEED[:SIZE]]`.
        base: The base model: packaged, hub id, folder or .gguf file.
        value: What steers: a value network's folder, or the short name of one that ships here; with an untuned model,
            the tuned small model, or a PEFT adapter of it.
        untuned: The small model before tuning: what tuning changed in it steers the base.
        alignment: An alignment of the two. Without it: from the cache, or built.
        bridge: A bridge that `vocabridge bridge` wrote, as it is, in place of a base, a value source and their
            settings.
        validation: Items on which weights, policy, alpha and threshold are chosen.
        combination: Fitted weights: a report that `eval -o` wrote.
        policies: Policy of the bridge at token boundaries, by default lookahead; of several, the best on the validation
            items is taken.
        alphas: Strength of the bridge, by default 1; of several, the best on the validation items is taken.
        ceiling: The base model fine-tuned itself, by name, or a value network trained on it.
        control: A value network with the base's own vocabulary, to see what projecting costs.
        contenders: Which to compare. By default all that can be made, without byte-level, which is slow.
        prompt: How a line's fields make a prompt.
        response: How they make a response.
        extract: Regular expression that finds the final answer in a text: its first group, or all of it.
            By default the number after ####, else the last number.
        limit: Take only so many items, the first ones.
        answers: Ask for the answers of only so many items; by default of all that have a final answer, and where none
            has one, of a few to show.
        max_new_tokens: The longest answer, in tokens.
        tolerance: Of byte-level: the share of each model's mass that may be left out at a byte; by default 1e-6.
        dtype: What the weights of all models are cast to.
    """

    data: str | Path
    base: str | None = None
    value: str | None = None
    untuned: str | None = None
    alignment: Path | None = None
    bridge: Path | None = None
    validation: str | Path | None = None
    combination: Path | None = None
    policies: tuple[BoundaryPolicy, ...] | None = None
    alphas: tuple[float, ...] | None = None
    ceiling: str | None = None
    control: str | None = None
    contenders: tuple[Contender, ...] | None = None
    prompt: str = "{prompt}"
    response: str = "{response}"
    extract: str | None = None
    limit: int | None = None
    answers: int | None = None
    max_new_tokens: int = 96
    tolerance: float | None = None
    dtype: Dtype = Dtype.BFLOAT16

    ranges: ClassVar[Mapping[str, Range]] = {
        "alphas": STRENGTH,
        "limit": COUNT,
        "answers": COUNT_OR_NONE,
        "max_new_tokens": COUNT,
        "tolerance": TOLERANCES,
    }

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything.

        Raises:
            VocabridgeError: A number is out of range, there is no such choice, or the settings do not go together.
        """
        from vocabridge.alignment.errors import UsageError, VocabridgeError  # with all of alignment

        check_settings(self)
        given = [name for name in _OF_A_BRIDGE if getattr(self, name) is not None]
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
