"""What a bridge is set to, how that is chosen on validation items, and contenders that are bridges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.fitting import Features, Fit
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.manifest import SavedBridge
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.contenders.definition import Definition, Inputs, Setting, needs_one_source
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.scoring import EvaluatedModel, of_model
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.strength import Schedule, Strength, as_json, from_json

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths at which the loss on the validation items is reported; proxy-tuning takes the best of them."""


@dataclass(frozen=True)
class SteeringSetting:
    """What one steering is set to.

    Attributes:
        combination: Method, form and weights.
        policy: How predictions are read at token boundaries; None over bytes, which have none.
        strength: alpha.
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
        """Read what `as_dict` made."""
        policy = BoundaryPolicy(values["policy"]) if "policy" in values else None
        return cls(Combination.from_dict(values["combination"]), policy, from_json(values["strength"]))

    @property
    def summary(self) -> str:
        """The setting in a few words."""
        one, alpha = self.combination, self.strength
        weights = [one.base_weight, one.tuned_weight, *([one.untuned_weight] if one.form is Form.PRODUCT else [])]
        words = [f"{one.method.value} {one.form.value}, {', '.join(f'{weight:.2f}' for weight in weights)}"]
        if isinstance(alpha, Schedule):
            words.append(f"alpha {alpha.start}:{alpha.end}:{alpha.tokens}")
        elif alpha != 1:
            words.append(f"alpha {alpha:g}")
        return "; ".join(words if self.policy is None else [*words, self.policy.value])


def together(steerings: Sequence[SteeringSetting]) -> dict[str, Any]:
    """Return the JSON form of what the steerings of a bridge are set to: that of the only one, or a list."""
    each = [steering.as_dict() for steering in steerings]
    return each[0] if len(each) == 1 else {"steerings": each}


def of_each(values: Mapping[str, Any]) -> tuple[SteeringSetting, ...]:
    """Read what `together` made."""
    return tuple(map(SteeringSetting.from_dict, values.get("steerings", [values])))


@dataclass(frozen=True)
class Trial:
    """A combination that was tried on the validation items.

    Attributes:
        fit: What it was worth there, at the best strength.
        policy: How predictions were read at token boundaries.
    """

    fit: Fit
    policy: BoundaryPolicy

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self.fit) | {"combination": self.fit.combination.as_dict(), "policy": self.policy.value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Read what `as_dict` made."""
        fit = {name: values[name] for name in ("strength", "bits", "paper_bits", "positions")}
        return cls(Fit(Combination.from_dict(values["combination"]), **fit), BoundaryPolicy(values["policy"]))


@dataclass(frozen=True)
class BridgeSetting(Setting):
    """What a bridge is set to.

    Attributes:
        steerings: What each steering is set to.
        limits: Those of a saved bridge that has some; else None.
        trials: What was tried on the validation items, the best first; none without them; None for a saved bridge.
        by_alpha: Bits a token on the validation items with the best combination, by strength.
    """

    steerings: tuple[SteeringSetting, ...] = ()
    limits: SteeringLimits | None = None
    trials: tuple[Trial, ...] | None = None
    by_alpha: Mapping[float, float] | None = None

    @classmethod
    def of_saved(cls, saved: SavedBridge) -> BridgeSetting:
        """Return what a saved bridge is set to."""
        each = (SteeringSetting(one.combination, one.policy, one.strength) for one in saved.steerings)
        return cls(tuple(each), saved.limits if saved.has_limits else None)

    def as_dict(self) -> dict[str, Any]:
        """See `Setting.as_dict`."""
        values = together(self.steerings)
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
            of_each(values),
            None if limits is None else SteeringLimits.from_dict(limits),
            None if fits is None else tuple(map(Trial.from_dict, fits)),
            None if by_alpha is None else {one["alpha"]: one["bits"] for one in by_alpha},
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
        """The combination that does at strength 1 what the bridge does; None where it is not one of one strength."""
        if len(self.steerings) != 1 or isinstance(alpha := self.steerings[0].strength, Schedule):
            return None
        combination = self.steerings[0].combination
        return combination if alpha == 1 else combination.at(alpha)


class SteeredDefinition(Definition[BridgeSetting]):
    """A contender that is a bridge."""

    required_models = frozenset({"base", "steerings"})
    setting_type = BridgeSetting

    def missing(self, pool: ModelPool, *, validation: bool) -> str | None:
        """Need one value source; see `Definition.missing`."""
        return needs_one_source(pool)

    def steerings(self, inputs: Inputs) -> list[Steering]:
        """Return what steers, by default the one value source; it is set later."""
        return [inputs.pool.steering()]

    def bridge(self, inputs: Inputs) -> Bridge:
        """Return the bridge to choose a setting for."""
        return Bridge(inputs.pool.base(), self.steerings(inputs))

    def setting(self, inputs: Inputs) -> BridgeSetting:
        """Return the setting, from the records where it is there; see `Definition.setting`.

        Raises:
            VocabridgeError: The records have it without validation items, and now there are some.
        """
        setting = super().setting(inputs)
        if inputs.held_out and setting.trials == ():
            raise VocabridgeError(
                f"the records have the {self.label} as it is without validation items; name another folder for them"
            )
        return setting

    def make(self, inputs: Inputs, setting: BridgeSetting) -> EvaluatedModel:
        """Set the steerings, and put them together with the base; see `Definition.make`."""
        steerings = self.steerings(inputs)
        for steering, own in zip(steerings, setting.steerings, strict=True):
            assert own.policy is not None
            steering.combination, steering.policy, steering.strength = own.combination, own.policy, own.strength
        bridge = Bridge(inputs.pool.base(), steerings, setting.limits)
        return of_model(self.label, bridge, bridge.vocabulary)


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
        inputs: Without validation items, what is given is taken as it is, with the first policy and strength.
        bridge: Of the base and the source.
        given: The combination, where none is to be fitted.
        methods: Those to fit otherwise.
        form: The only form to use; None for all.
        policies: To choose from.
        alphas: The strengths to choose from.
    """
    if not inputs.held_out:
        assert given is not None
        return BridgeSetting((SteeringSetting(given, policies[0], alphas[0]),), trials=())
    tried: list[tuple[Fit, BoundaryPolicy, Features]] = []
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
