"""The settings of an evaluation: which models, which items, and how they are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vocabridge.options import BoundaryPolicy, Contender, Dtype
from vocabridge.utils.ranges import COUNT, COUNT_OR_NONE, STRENGTH, TOLERANCES, Range
from vocabridge.utils.settings import check_settings

_SAVED_WITH_BRIDGE = ("base", "value", "untuned", "alignment", "combination", "policies", "alphas")
"""Settings that a saved bridge contains."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, and how: a base model with a value source, or a saved bridge that contains both.

    Attributes:
        data: Test items: a JSONL file, or a task `reasoning-gym:NAME[:SEED[:SIZE]]`.
        base: The base model: a packaged model, hub id, folder, .gguf file or PEFT adapter.
        value: The value source: a value network's folder, or the short name of a packaged one. With an untuned model,
            the tuned small model, or a PEFT adapter of the untuned one.
        untuned: The small model before tuning. The difference that tuning made steers the base model.
        alignment: An alignment of the two vocabularies. By default it comes from the cache, or is built.
        bridge: A bridge that `vocabridge bridge` wrote. It is measured with its own models and settings, in place of a
            base model and a value source.
        validation: Validation items, on which weights, method, form, the mixture's share, nudging's threshold and
            proxy-tuning's alpha are chosen; also the bridge's policy and alpha, if several are given.
        combination: A report of `eval -o`, whose fitted weights are used.
        policies: The bridge's policy at token boundaries, by default lookahead. If several are given, the best one on
            the validation items is used.
        alphas: The bridge's strength, by default 1. If several are given, the best one on the validation items is
            used.
        ceiling: The fine-tuned base model, or a value network trained on the base model.
        control: A value network with the base model's vocabulary, which shows what projection costs.
        contenders: The contenders to compare. By default all that the given models and files allow, except byte-level,
            which is slow.
        prompt: Template of a prompt: {name} stands for a field of the item.
        response: Template of a response.
        extract: Regular expression that finds the final answer in a text: its first group, or else the whole match.
            By default the number after ####, else the last number.
        limit: Number of items to use, the first ones; by default all.
        answers: Number of items for which answers are generated. By default all items that have a final answer. If no
            item has one, a few answers are generated to show them.
        max_new_tokens: Maximum number of tokens of an answer.
        tolerance: For byte-level: the share of each model's probability that may be left out at a byte; by default
            1e-6.
        dtype: The dtype to which the weights of all models are cast.
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
        """Check what can be checked without reading any file.

        Raises:
            VocabridgeError: A number is out of range, a choice does not exist, or settings exclude each other.
        """
        from vocabridge.alignment.errors import UsageError, VocabridgeError  # imports all of vocabridge.alignment

        check_settings(self)
        given = [name for name in _SAVED_WITH_BRIDGE if getattr(self, name) is not None]
        if self.bridge is not None and given:
            raise UsageError("bridge", f"has its own {', '.join(given)}; leave these out")
        if self.bridge is None and (self.base is None or self.value is None):
            raise UsageError("bridge", "is not given, nor a base and a value source; give one of these")
        for candidates, plural in ((self.policies, "policies"), (self.alphas, "alphas")):
            if self.validation is None and len(candidates or ()) > 1:
                raise VocabridgeError(
                    f"the best of several {plural} is chosen on validation items; give --validation, or only one value"
                )

    @property
    def tried_policies(self) -> tuple[BoundaryPolicy, ...]:
        """The policies among which the bridge's is chosen."""
        return self.policies or (BoundaryPolicy.LOOKAHEAD,)

    @property
    def tried_alphas(self) -> tuple[float, ...]:
        """The strengths among which the bridge's is chosen."""
        return self.alphas or (1.0,)

    @property
    def source(self) -> str:
        """The name of the bridge or of the value source, for tables."""
        value = str(self.bridge or self.value)
        return value if self.untuned is None else f"{value} - {self.untuned}"
