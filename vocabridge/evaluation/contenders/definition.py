"""What a contender is: its name in tables, the models that it needs, what it is set to, and how it is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.run_store import Run
from vocabridge.evaluation.scoring import EvaluatedModel
from vocabridge.models.examples import Example
from vocabridge.utils.progress import Progress


@dataclass(frozen=True)
class Setting:
    """What a contender is set to: chosen on the validation items, or given. This one is of a contender without any."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, as records and reports have it."""
        return {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        """Read what `as_dict` made; other entries do not matter."""
        return cls()

    @property
    def summary(self) -> str:
        """The setting in a few words, for tables."""
        return ""


S = TypeVar("S", bound=Setting)


@dataclass(frozen=True)
class Inputs:
    """What contenders are made of.

    Attributes:
        config: The settings of the evaluation.
        pool: The models.
        held_out: Validation items on which settings are chosen; may be none.
        run: The records; a setting that is there is not chosen again.
        progress: Called at every step of a choice.
    """

    config: EvaluationConfig
    pool: ModelPool
    held_out: Sequence[Example]
    run: Run
    progress: Progress


class Definition(ABC, Generic[S]):
    """One way to use a base model and a value source.

    Attributes:
        label: The name in tables and records.
        required_models: Which models of the pool it needs: "base", "steerings", "control", "ceiling".
        setting_type: The type of its setting.
        used_settings: The settings of the evaluation that it uses and not every contender does.
        used_if_chosen: More of them, where the bridge's setting is chosen on validation items.
        is_slow: Whether it is measured only where it is asked for.
        answers_at_once: How many answers it writes at once.
        has_base_tokens: Whether it reads in the base's tokens, so that its choice of tokens compares with the base's.
    """

    label: ClassVar[str]
    required_models: ClassVar[frozenset[str]]
    setting_type: type[S]
    used_settings: ClassVar[frozenset[str]] = frozenset()
    used_if_chosen: ClassVar[frozenset[str]] = frozenset()
    is_slow: ClassVar[bool] = False
    answers_at_once: ClassVar[int] = 17
    has_base_tokens: ClassVar[bool] = True

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Return what has to be given before it can be made; None where all is there.

        Args:
            pool: The models of the evaluation.
            validation: Whether there are validation items.
        """
        return None

    def choose(self, inputs: Inputs) -> S:
        """Choose the setting, on the validation items where there are some."""
        return self.setting_type()

    @abstractmethod
    def make(self, inputs: Inputs, setting: S) -> EvaluatedModel:
        """Make the contender.

        Raises:
            VocabridgeError: A model cannot be loaded or does not fit.
        """

    def setting(self, inputs: Inputs) -> S:
        """Return the setting: what the records have, or else what is chosen now and recorded."""
        if self.setting_type is Setting:
            return self.setting_type()
        values = inputs.run.setting(self.label, lambda: self.choose(inputs).as_dict())
        read: Any = self.setting_type.from_dict(values)
        return read

    def load(self, inputs: Inputs) -> EvaluatedModel:
        """Make the contender with its setting; models that it does not need are let go first.

        Raises:
            VocabridgeError: A model cannot be loaded or does not fit.
        """
        inputs.pool.retain(self.required_models)
        return self.make(inputs, self.setting(inputs))


def needs_one_source(pool: ModelPool) -> str | None:
    """Return what a contender misses that compares with one value source, where there are several or none."""
    return "a bridge with one value source" if pool.sources != 1 else None
