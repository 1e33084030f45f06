"""The definition of a contender: its name in tables, the models that it needs, its setting, and how it is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.run_store import RunStore
from vocabridge.evaluation.scoring import EvaluatedModel
from vocabridge.models.examples import Example
from vocabridge.utils.progress import Progress


@dataclass(frozen=True)
class Setting:
    """The setting of a contender, chosen on the validation items or given. This class is for contenders without one."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, for records and reports."""
        return {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        """Make a setting of its JSON form, in which further entries are ignored."""
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
        held_out: Validation items, on which settings are chosen; may be empty.
        run: The records. A recorded setting is not chosen again.
        progress: Called at every step of choosing a setting.
    """

    config: EvaluationConfig
    pool: ModelPool
    held_out: Sequence[Example]
    run: RunStore
    progress: Progress


class Definition(ABC, Generic[S]):
    """One way to use a base model and a value source.

    Attributes:
        label: The name in tables and records.
        required_models: The models of the pool that the contender needs: "base", "steerings", "control", "ceiling".
        setting_type: The type of the contender's setting.
        used_settings: The settings of the evaluation that this contender uses, but not all contenders.
        used_if_chosen: Further such settings, used if the bridge's setting is chosen on validation items.
        is_slow: Whether the contender is measured only on request.
        answers_at_once: The batch size of generation.
        has_base_tokens: Whether the contender predicts the base's tokens, so that the most likely tokens of both can be
            compared.
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
        """Return what has to be given before the contender can be made, or None if nothing is missing.

        Args:
            pool: The models of the evaluation.
            validation: Whether there are validation items.
        """
        return None

    def choose(self, inputs: Inputs) -> S:
        """Choose the setting, on the validation items if there are any."""
        return self.setting_type()

    @abstractmethod
    def make(self, inputs: Inputs, setting: S) -> EvaluatedModel:
        """Make the contender.

        Raises:
            VocabridgeError: A model cannot be loaded or does not fit.
        """

    def setting(self, inputs: Inputs) -> S:
        """Return the recorded setting; if there is none, choose one and record it."""
        if self.setting_type is Setting:
            return self.setting_type()
        values = inputs.run.setting(self.label, lambda: self.choose(inputs).as_dict())
        setting: Any = self.setting_type.from_dict(values)
        return setting

    def load(self, inputs: Inputs) -> EvaluatedModel:
        """Make the contender with its setting; models that it does not need are released first.

        Raises:
            VocabridgeError: A model cannot be loaded or does not fit.
        """
        inputs.pool.retain(self.required_models)
        return self.make(inputs, self.setting(inputs))


def needs_one_source(pool: ModelPool) -> str | None:
    """Return what is missing for a contender with exactly one value source, or None if there is exactly one."""
    return "a bridge with one value source" if pool.sources != 1 else None
