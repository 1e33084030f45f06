"""The lineup of an evaluation: how each contender is made, and what of it is chosen on validation items.

base       p_base                                    donor alone   the small model in its own vocabulary
bridge     the best fit over methods and forms, or   mixture       (1 - s) p_base + s C p_donor
           a saved bridge as it is
byte-level the same combination over bytes           proxy-tuning  log p_base + alpha log(C p_tuned / C p_untuned)
nudging    q_donor where max p_base < t, else p_base, with q_donor projected as the bridge methods it
control    the bridge's combination, of a value network that has the base's own vocabulary
ceiling    the base fine-tuned, or with a value network trained on it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.fitting import Features, Fit
from vocabridge.bridge.manifest import SavedBridge
from vocabridge.bridge.model import Bridge
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.byte_level.byte_lm import TOLERANCE
from vocabridge.evaluation.model_pool import ModelPool, Names
from vocabridge.evaluation.nudging import CARRIED_DONOR, Nudging, fit_threshold
from vocabridge.evaluation.run_store import Run
from vocabridge.evaluation.scoring import (
    ByteLevelModel,
    EvaluatedModel,
    in_one_vocabulary,
    of_model,
    of_source,
)
from vocabridge.models.examples import Example
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_network
from vocabridge.models.value_network_files import is_value_network
from vocabridge.options import BoundaryPolicy, Contender, Form, ProjectionMethod
from vocabridge.projection.combination import UNFITTED, Combination
from vocabridge.projection.strength import as_json, from_json
from vocabridge.utils.progress import Progress

IN_TURN = (
    *(
        Contender.BASE,
        Contender.CONTROL,
        Contender.BRIDGE,
        Contender.MIXTURE,
        Contender.NUDGING,
        Contender.PROXY_TUNING,
        Contender.BYTE_LEVEL,
    ),
    *(Contender.DONOR, Contender.CEILING),
)
"""The order in which the fewest models are loaded twice."""

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Strengths at which the loss on the validation items is reported; the expert pair takes the best of them."""

PROXY_TUNING = Combination(ProjectionMethod.STATIC)
"""The sum of proxy-tuning (Liu et al., arXiv 2401.08565), projected as one would without vocabridge."""


class ContenderFactory:
    """Makes contenders, one after the other."""

    def __init__(
        self,
        names: Names,
        held_out: Sequence[Example],
        *,
        combination: Combination | None = None,
        policies: Sequence[BoundaryPolicy] = (BoundaryPolicy.LOOKAHEAD,),
        alphas: Sequence[float] = (1.0,),
        tolerance: float = TOLERANCE,
        device: str,
        dtype: torch.dtype = torch.bfloat16,
        progress: Progress,
    ) -> None:
        """Loads nothing yet.

        Args:
            names: What the contenders are made of.
            held_out: Validation items on which weights, policy, strength and threshold are chosen; may be none.
            combination: The bridge's weights where they are given and not fitted.
            policies: Of the bridge; of several the best on the validation items is taken.
            alphas: Its strengths; likewise.
            tolerance: Of the byte-level bridge.
            device: Where the models go.
            dtype: What their weights are cast to.
            progress: Told of every step of a fit.

        Raises:
            VocabridgeError: A saved bridge cannot be read.
        """
        self._names = names
        self._held_out = held_out
        self._combination = combination
        self._policies = policies
        self._alphas = alphas
        self._tolerance = tolerance
        self._place: dict[str, Any] = {"device": device, "dtype": dtype}
        self._progress = progress
        self.parts = ModelPool(names, device, dtype)

    def missing(self) -> dict[Contender, str]:
        """The kinds that cannot be made of what is there, and what each of them needs."""
        needs: dict[Contender, str] = {}
        if self._names.ceiling is None:
            needs[Contender.CEILING] = "--ceiling"
        if self._names.control is None:
            needs[Contender.CONTROL] = "--control"
        if not self._held_out:
            needs |= dict.fromkeys((Contender.MIXTURE, Contender.NUDGING), "--validation")
        saved = self.parts.saved
        if self.parts.sources != 1:
            alone = (Contender.DONOR, Contender.MIXTURE, Contender.NUDGING, Contender.PROXY_TUNING)
            needs |= dict.fromkeys(alone, "a bridge with one value source")
        if saved is not None and saved.has_limits:
            needs[Contender.BYTE_LEVEL] = "a bridge without limits, which are of logits of tokens"
        return needs

    def make(self, kind: Contender, run: Run) -> EvaluatedModel:
        """Loads a contender; what is chosen is noted in the run, and taken from there if it is.

        Raises:
            VocabridgeError: A part of it is missing or does not fit.
        """
        both = {"base", "steerings"}
        makers: dict[Contender, tuple[Callable[[Run], EvaluatedModel], set[str]]] = {
            Contender.BASE: (self._base, {"base"}),
            Contender.DONOR: (self._donor, {"steerings"}),
            Contender.BRIDGE: (self._bridge, both),
            Contender.BYTE_LEVEL: (self._byte_level, both),
            Contender.MIXTURE: (self._mixture, both),
            Contender.NUDGING: (self._nudging, both),
            Contender.PROXY_TUNING: (self._proxy_tuning, both),
            Contender.CONTROL: (self._control, {"base"}),
            Contender.CEILING: (self._ceiling, set()),
        }
        make, needed = makers[kind]
        self.parts.only(needed)
        return make(run)

    def _base(self, _run: Run) -> EvaluatedModel:
        base = self.parts.base()
        return of_model(Contender.BASE.label, base.model, base.vocabulary)

    def _donor(self, _run: Run) -> EvaluatedModel:
        (source,) = self.parts.value_sources()
        return of_source(Contender.DONOR.label, source)

    def _bridge(self, run: Run) -> EvaluatedModel:
        setting, saved = self._bridges(run), self.parts.saved
        if saved is None:
            return self._set(Contender.BRIDGE, self._over_base(), setting)
        steerings = self.parts.steerings()
        for steering, one in zip(steerings, saved.steerings, strict=True):
            steering.combination, steering.policy, steering.strength = one.combination, one.policy, one.strength
        bridge = Bridge(self.parts.base(), steerings, saved.limits)
        return of_model(Contender.BRIDGE.label, bridge, bridge.vocabulary)

    def _byte_level(self, run: Run) -> EvaluatedModel:
        settings = _of_each(self._bridges(run))
        steerings = [
            ByteLevelSteering(source, Combination.from_dict(one["combination"]), from_json(one.get("strength", 1.0)))
            for source, one in zip(self.parts.value_sources(), settings, strict=True)
        ]
        heard = [{key: value for key, value in one.items() if key in ("combination", "strength")} for one in settings]
        run.setting(Contender.BYTE_LEVEL.label, lambda: _together(heard) | {"tolerance": self._tolerance})
        return ByteLevelModel(
            Contender.BYTE_LEVEL.label, ByteLevelBridge(self.parts.base(), steerings, tolerance=self._tolerance)
        )

    def _mixture(self, run: Run) -> EvaluatedModel:
        bridge = self._over_base()
        setting = self._setting(
            run, Contender.MIXTURE, lambda: self._chosen(bridge, methods=[ProjectionMethod.STATIC], form=Form.MIXTURE)
        )
        return self._set(Contender.MIXTURE, bridge, setting)

    def _proxy_tuning(self, run: Run) -> EvaluatedModel:
        bridge = self._over_base()
        alphas = ALPHAS if self._held_out else (1.0,)
        setting = self._setting(
            run, Contender.PROXY_TUNING, lambda: self._chosen(bridge, given=PROXY_TUNING, alphas=alphas)
        )
        return self._set(Contender.PROXY_TUNING, bridge, setting)

    def _nudging(self, run: Run) -> EvaluatedModel:
        bridge = self._over_base()
        bridge.steering.combination = CARRIED_DONOR
        setting = run.setting(
            Contender.NUDGING.label,
            lambda: {"threshold": fit_threshold(bridge, self._held_out, progress=self._progress)},
        )
        bridge.limits = Nudging(sure=setting["threshold"])
        return of_model(Contender.NUDGING.label, bridge, bridge.vocabulary)

    def _control(self, run: Run) -> EvaluatedModel:
        base, name = self.parts.base(), self._names.control
        assert name is not None
        source = load_value_network(name, **self._place)
        if source.vocabulary.fingerprint != base.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{name} has another tokenizer than {base.name}; a control is a value network of the base's own"
            )
        bridge = Bridge(base, [in_one_vocabulary(source)])
        given = None if self._held_out else Combination(ProjectionMethod.LINEAR)
        setting = self._setting(
            run,
            Contender.CONTROL,
            lambda: self._chosen(bridge, given=given, methods=(ProjectionMethod.LINEAR, ProjectionMethod.STATIC)),
        )
        return self._set(Contender.CONTROL, bridge, setting)

    def _ceiling(self, _run: Run) -> EvaluatedModel:
        name = self._names.ceiling
        assert name is not None
        if is_value_network(name):
            return of_source(Contender.CEILING.label, load_value_network(name, **self._place))
        loaded = load_model(name, **self._place)
        return of_model(Contender.CEILING.label, loaded.model, loaded.vocabulary)

    def _over_base(self) -> Bridge:
        return Bridge(self.parts.base(), [self.parts.steering()])

    def _set(self, kind: Contender, bridge: Bridge, setting: dict[str, Any]) -> EvaluatedModel:
        bridge.steering.combination = Combination.from_dict(setting["combination"])
        bridge.steering.policy = BoundaryPolicy(setting["policy"])
        bridge.steering.strength = setting.get("strength", 1.0)
        return of_model(kind.label, bridge, bridge.vocabulary)

    def _bridges(self, run: Run) -> dict[str, Any]:
        """What the bridge is set to: a saved one as it is saved, another as is best on the validation items."""
        saved, given = self.parts.saved, self._combination
        if saved is not None:
            return run.setting(Contender.BRIDGE.label, lambda: _as_saved(saved))
        if not self._held_out:
            given = given or UNFITTED
        return self._setting(
            run,
            Contender.BRIDGE,
            lambda: self._chosen(self._over_base(), given=given, policies=self._policies, alphas=self._alphas),
        )

    def _setting(self, run: Run, kind: Contender, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the run has of what was chosen for a contender; else it is chosen now."""
        setting = run.setting(kind.label, choose)
        if self._held_out and not setting["fits"]:
            raise VocabridgeError(
                f"the records have the {kind.label} as it is without validation items; name another folder for them"
            )
        return setting

    def _chosen(
        self,
        bridge: Bridge,
        *,
        given: Combination | None = None,
        methods: Sequence[ProjectionMethod] = tuple(ProjectionMethod),
        form: Form | None = None,
        policies: Sequence[BoundaryPolicy] = (BoundaryPolicy.AS_IS,),
        alphas: Sequence[float] = (1.0,),
    ) -> dict[str, Any]:
        """The best combination, policy and strength on the validation items, and all that were tried.

        Args:
            bridge: Of the base and the source.
            given: The combination, where none is to be fitted.
            methods: Else those to fit,
            form: and the only form to use.
            policies: To choose from.
            alphas: Likewise.
        """
        if not self._held_out:
            assert given is not None
            return {"combination": given.as_dict(), "policy": policies[0].value, "strength": alphas[0], "fits": []}
        found: list[tuple[Fit, BoundaryPolicy, Features]] = []
        for policy in policies:
            bridge.steering.policy = policy
            features = Features.of(
                bridge, self._held_out, methods if given is None else [given.method], progress=self._progress
            )
            for combination in features.fitted() if given is None else [given]:
                if form in (None, combination.form):
                    found.append((features.judge(combination, alphas), policy, features))
        found.sort(key=lambda one: one[0].bits)
        best, policy, features = found[0]
        return {
            "combination": best.combination.as_dict(),
            "policy": policy.value,
            "strength": best.strength,
            "fits": [
                asdict(fit) | {"combination": fit.combination.as_dict(), "policy": policy.value}
                for fit, policy, _ in found
            ],
            "by_alpha": [
                {"alpha": alpha, "bits": features.bits(best.combination, alpha)} for alpha in sorted({*ALPHAS, *alphas})
            ],
        }


def _as_saved(saved: SavedBridge) -> dict[str, Any]:
    each = [
        {
            "combination": one.combination.as_dict(),
            "policy": one.policy.value,
            "strength": as_json(one.strength),
        }
        for one in saved.steerings
    ]
    return _together(each) | ({"limits": saved.limits.as_dict()} if saved.has_limits else {})


def _together(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """What a bridge is set to, of what its steerings are: that of the only one, or a list."""
    return settings[0] if len(settings) == 1 else {"steerings": settings}


def _of_each(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """What the steerings of a bridge are set to, of what it is."""
    several: list[dict[str, Any]] = setting.get("steerings", [setting])
    return several
