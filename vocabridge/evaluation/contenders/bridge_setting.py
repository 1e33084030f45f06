"""The setting of a bridge, how it is chosen on validation items, and the base class of contenders that are bridges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.fitting import Features, FittedCombination
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.manifest import SavedBridge
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.contenders.definition import Definition, Inputs, Setting, needs_one_source
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import EvaluatedModel, evaluated_model
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.strength import Schedule, Strength, as_json, from_json

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths at which the loss on the validation items is reported; proxy-tuning uses the best one."""


@dataclass(frozen=True)
class SteeringSetting:
    """The setting of one steering.

    Attributes:
        combination: Projection method, form and weights.
        policy: The policy at token boundaries; None for a byte-level bridge, which needs none.
        strength: The strength alpha.
    """

    combination: Combination
    policy: BoundaryPolicy | None = BoundaryPolicy.AS_IS
    strength: Strength = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        policy = {} if self.policy is None else {"policy": self.policy.value}
        return {"combination": self.combination.as_dict(), **policy, "strength": as_json(self.strength)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SteeringSetting:
        """Make a setting of its JSON form."""
        policy = BoundaryPolicy(values["policy"]) if "policy" in values else None
        return cls(Combination.from_dict(values["combination"]), policy, from_json(values["strength"]))

    @property
    def summary(self) -> str:
        """The setting in a few words, for tables."""
        combination, alpha = self.combination, self.strength
        method, form = combination.method.value, combination.form.value
        weights = [combination.base_weight, combination.tuned_weight]
        weights += [combination.untuned_weight] if combination.form is Form.PRODUCT else []
        words = [f"{method} {form}, {', '.join(f'{weight:.2f}' for weight in weights)}"]
        if isinstance(alpha, Schedule):
            words.append(f"alpha {alpha.start}:{alpha.end}:{alpha.tokens}")
        elif alpha != 1:
            words.append(f"alpha {alpha:g}")
        return "; ".join(words if self.policy is None else [*words, self.policy.value])


def settings_as_dict(steerings: Sequence[SteeringSetting]) -> dict[str, Any]:
    """Return the JSON form of the settings of a bridge's steerings: that of the only one, or a list of them."""
    dicts = [steering.as_dict() for steering in steerings]
    return dicts[0] if len(dicts) == 1 else {"steerings": dicts}


def settings_from_dict(values: Mapping[str, Any]) -> tuple[SteeringSetting, ...]:
    """Make the settings of the JSON form of `settings_as_dict`."""
    return tuple(map(SteeringSetting.from_dict, values.get("steerings", [values])))


@dataclass(frozen=True)
class Trial:
    """A combination that was tried on the validation items.

    Attributes:
        fit: The combination with its bits at the best strength.
        policy: The policy at token boundaries.
    """

    fit: FittedCombination
    policy: BoundaryPolicy

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self.fit) | {"combination": self.fit.combination.as_dict(), "policy": self.policy.value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Make a trial of its JSON form."""
        fit = {name: values[name] for name in ("strength", "bits", "paper_bits", "positions")}
        fitted = FittedCombination(Combination.from_dict(values["combination"]), **fit)
        return cls(fitted, BoundaryPolicy(values["policy"]))


@dataclass(frozen=True)
class BridgeSetting(Setting):
    """The setting of a bridge.

    Attributes:
        steerings: The setting of each steering.
        limits: The limits of a saved bridge that has some; else None.
        trials: The combinations that were tried on the validation items, the best first; empty without validation
            items, and None for a saved bridge.
        by_alpha: Bits a token on the validation items with the best combination, by strength.
    """

    steerings: tuple[SteeringSetting, ...] = ()
    limits: SteeringLimits | None = None
    trials: tuple[Trial, ...] | None = None
    by_alpha: Mapping[float, float] | None = None

    @classmethod
    def of_saved(cls, saved: SavedBridge) -> BridgeSetting:
        """Return the setting of a saved bridge."""
        steerings = (
            SteeringSetting(steering.combination, steering.policy, steering.strength) for steering in saved.steerings
        )
        return cls(tuple(steerings), saved.limits if saved.has_limits else None)

    def as_dict(self) -> dict[str, Any]:
        """See `Setting.as_dict`."""
        values = settings_as_dict(self.steerings)
        if self.limits is not None:
            values["limits"] = self.limits.as_dict()
        if self.trials is not None:
            values["fits"] = [trial.as_dict() for trial in self.trials]
        if self.by_alpha is not None:
            values["by_alpha"] = [{"alpha": alpha, "bits": bits} for alpha, bits in self.by_alpha.items()]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BridgeSetting:
        """See `Setting.from_dict`."""
        limits, fits, by_alpha = (values.get(name) for name in ("limits", "fits", "by_alpha"))
        return cls(
            settings_from_dict(values),
            None if limits is None else SteeringLimits.from_dict(limits),
            None if fits is None else tuple(map(Trial.from_dict, fits)),
            None if by_alpha is None else {loss["alpha"]: loss["bits"] for loss in by_alpha},
        )

    @property
    def summary(self) -> str:
        """See `Setting.summary`."""
        words = [steering.summary for steering in self.steerings]
        if self.limits is not None:
            limits = self.limits.as_dict().items()
            words.append("limits " + ", ".join(f"{name} {value:g}" for name, value in limits if value))
        return "; ".join(words)

    @property
    def combination(self) -> Combination | None:
        """The combination that does at strength 1 what the bridge does.

        It is None if the bridge does not have exactly one steering with a constant strength.
        """
        if len(self.steerings) != 1 or isinstance(alpha := self.steerings[0].strength, Schedule):
            return None
        combination = self.steerings[0].combination
        return combination if alpha == 1 else combination.at(alpha)


class SteeredDefinition(Definition[BridgeSetting]):
    """A contender that is a bridge."""

    required_models = frozenset({"base", "steerings"})
    setting_type = BridgeSetting

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Require one value source; see `Definition.missing`."""
        return needs_one_source(pool)

    def steerings(self, inputs: Inputs) -> list[Steering]:
        """Return the steerings of the bridge, by default that of the only value source."""
        return [inputs.pool.steering()]

    def bridge(self, inputs: Inputs) -> Bridge:
        """Return the bridge for which a setting is chosen."""
        return Bridge(inputs.pool.base(), self.steerings(inputs))

    def setting(self, inputs: Inputs) -> BridgeSetting:
        """Return the recorded setting, or choose one; see `Definition.setting`.

        Raises:
            VocabridgeError: The setting was recorded without validation items, and now there are some.
        """
        setting = super().setting(inputs)
        if inputs.held_out and setting.trials == ():
            raise VocabridgeError(
                f"the recorded setting of {self.label} was made without validation items; name another folder"
            )
        return setting

    def make(self, inputs: Inputs, setting: BridgeSetting) -> EvaluatedModel:
        """Make a bridge of the base and the steerings with their settings; see `Definition.make`."""
        steerings = self.steerings(inputs)
        for steering, chosen in zip(steerings, setting.steerings, strict=True):
            assert chosen.policy is not None
            steering.combination, steering.policy = chosen.combination, chosen.policy
            steering.strength = chosen.strength
        bridge = Bridge(inputs.pool.base(), steerings, setting.limits)
        return evaluated_model(self.label, bridge, bridge.vocabulary)


def choose_setting(
    inputs: Inputs,
    bridge: Bridge,
    *,
    given: Combination | None = None,
    methods: Sequence[ProjectionMethod] = tuple(ProjectionMethod),
    form: Form | None = None,
    policies: Sequence[BoundaryPolicy] = (BoundaryPolicy.AS_IS,),
    alphas: Sequence[float] = (1.0,),
) -> BridgeSetting:
    """Choose the best combination, policy and strength on the validation items.

    Args:
        inputs: The inputs of the evaluation. Without validation items, the setting is the given combination with the
            first policy and strength.
        bridge: The bridge of the base and the value source.
        given: The combination; None to fit its weights.
        methods: The projection methods for which weights are fitted.
        form: The only form to try; None for both.
        policies: The policies to try.
        alphas: The strengths to try.
    """
    if not inputs.held_out:
        assert given is not None
        return BridgeSetting((SteeringSetting(given, policies[0], alphas[0]),), trials=())
    tried: list[tuple[FittedCombination, BoundaryPolicy, Features]] = []
    for policy in policies:
        bridge.steering.policy = policy
        features = Features.of(
            bridge, inputs.held_out, methods if given is None else [given.method], progress=inputs.progress
        )
        for combination in features.fitted() if given is None else [given]:
            if form in (None, combination.form):
                tried.append((features.judge(combination, alphas), policy, features))
    tried.sort(key=lambda trial: trial[0].bits)
    best, policy, features = tried[0]
    return BridgeSetting(
        (SteeringSetting(best.combination, policy, best.strength),),
        trials=tuple(Trial(fit, policy) for fit, policy, _ in tried),
        by_alpha={alpha: features.bits(best.combination, alpha) for alpha in sorted({*ALPHAS, *alphas})},
    )
