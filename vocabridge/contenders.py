"""Contenders of an evaluation: what each is made of, and what of it is fitted on validation items.

    base       p_base                                    donor alone   the small model in its own vocabulary
    bridge     the best fit over carries and forms       mixture       (1 - s) p_base + s C p_donor
    nudging    q_donor where max p_base < t, else p_base, with q_donor carried as the bridge carries it
    control    the bridge's combination, of a value network that has the base's own vocabulary
    ceiling    the base fine-tuned, or with a value network trained on it

Models are loaded when a contender needs them, and let go of when the next one does not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination, Form
from vocabridge.connection import run
from vocabridge.examples import Example
from vocabridge.fitting import Fit, fit_combination
from vocabridge.kinds import Kind
from vocabridge.loading import build_steering
from vocabridge.models import LoadedModel, load_model
from vocabridge.nudging import CARRIED_DONOR, Nudging, fit_threshold
from vocabridge.policy import Policy
from vocabridge.progress import Progress
from vocabridge.projection import Projection
from vocabridge.run import Run
from vocabridge.steering import Steering
from vocabridge.value_network import CONFIG, load_value_network, load_value_source
from vocabridge.value_source import ContrastPair, ValueNetwork, ValueSource

IN_TURN = (Kind.BASE, Kind.CONTROL, Kind.BRIDGE, Kind.MIXTURE, Kind.NUDGING, Kind.DONOR, Kind.CEILING)
"""The order in which the fewest models are loaded twice."""

_FITTED = (Kind.MIXTURE, Kind.NUDGING)


@dataclass(frozen=True)
class Contender:
    """Something to measure.

    Attributes:
        name: For tables and records.
        model: Generates, as a causal language model.
        vocabulary: Of the model.
        logits: Teacher-forced: ids (1, n) and k to the logits of the last k positions, (k, |V|).
    """

    name: str
    model: PreTrainedModel
    vocabulary: Vocabulary
    logits: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Names:
    """What the contenders are made of, by name.

    Attributes:
        base: The base model.
        value: A value network's folder; with `untuned`, the tuned model of a contrast pair.
        untuned: The untuned model of the pair.
        alignment: A saved alignment; without one, the default.
        ceiling: The base fine-tuned itself: a model, or the folder of a value network that was trained on it.
        control: The folder of a value network with the base's own vocabulary.
    """

    base: str
    value: str
    untuned: str | None = None
    alignment: Path | None = None
    ceiling: str | None = None
    control: str | None = None


class Lineup:
    """Makes contenders, one after the other."""

    def __init__(
        self,
        names: Names,
        held_out: Sequence[Example],
        *,
        combination: Combination | None,
        policies: Sequence[Policy],
        device: str,
        progress: Progress,
    ) -> None:
        """Loads nothing yet.

        Args:
            names: What the contenders are made of.
            held_out: Validation items on which weights, policy and threshold are chosen; may be none.
            combination: The bridge's weights where they are given and not fitted.
            policies: Of the bridge; of several the best on the validation items is taken.
            device: Where the models go.
            progress: Told of every step of a fit.
        """
        self._names = names
        self._held_out = held_out
        self._combination = combination
        self._policies = policies
        self._device = device
        self._progress = progress
        self._parts: dict[str, Any] = {}

    def possible(self) -> list[Kind]:
        """The kinds that can be made of what is there."""
        missing = {
            Kind.CEILING: self._names.ceiling is None,
            Kind.CONTROL: self._names.control is None,
            **dict.fromkeys(_FITTED, not self._held_out),
        }
        return [kind for kind in Kind if not missing.get(kind, False)]

    def make(self, kind: Kind, run: Run) -> Contender:
        """Loads a contender; what is fitted is noted in the run, and taken from there if it is.

        Raises:
            VocabridgeError: A part of it is missing or does not fit.
        """
        makers: dict[Kind, tuple[Callable[[Run], Contender], set[str]]] = {
            Kind.BASE: (self._base_alone, {"base"}),
            Kind.DONOR: (self._donor, {"steering"}),
            Kind.BRIDGE: (self._bridge, {"base", "steering"}),
            Kind.MIXTURE: (self._mixture, {"base", "steering"}),
            Kind.NUDGING: (self._nudging, {"base", "steering"}),
            Kind.CONTROL: (self._control, {"base"}),
            Kind.CEILING: (self._ceiling, set()),
        }
        make, needed = makers[kind]
        for name in self._parts.keys() - needed:
            del self._parts[name]
        gc.collect()  # before anything else is loaded
        return make(run)

    def _base(self) -> LoadedModel:
        if "base" not in self._parts:
            self._parts["base"] = load_model(self._names.base, device=self._device)
        loaded: LoadedModel = self._parts["base"]
        return loaded

    def _steering(self, target: Vocabulary) -> Steering:
        if "steering" not in self._parts:
            names = self._names
            self._parts["steering"] = build_steering(
                target, names.value, untuned=names.untuned, alignment=names.alignment, device=self._device
            )
        steering: Steering = self._parts["steering"]
        steering.policy, steering.strength = Policy.LOOK_AHEAD, 1.0
        return steering

    def _base_alone(self, _run: Run) -> Contender:
        base = self._base()
        return of_model(Kind.BASE.label, base.model, base.vocabulary)

    def _donor(self, _run: Run) -> Contender:
        if "steering" in self._parts:
            return of_source(Kind.DONOR.label, self._parts["steering"].source)
        names = self._names
        return of_source(Kind.DONOR.label, load_value_source(names.value, untuned=names.untuned, device=self._device))

    def _bridge(self, run: Run) -> Contender:
        bridge = self._over_base()
        setting = run.setting(Kind.BRIDGE.label, lambda: self._chosen(bridge, self._policies, tuple(Carry)))
        return self._set(Kind.BRIDGE, bridge, setting)

    def _mixture(self, run: Run) -> Contender:
        bridge = self._over_base()
        setting = run.setting(
            Kind.MIXTURE.label, lambda: self._chosen(bridge, [Policy.RETOKENIZE], [Carry.STATIC], form=Form.MIXTURE)
        )
        return self._set(Kind.MIXTURE, bridge, setting)

    def _nudging(self, run: Run) -> Contender:
        bridge = self._over_base()
        bridge.steering.combination = CARRIED_DONOR
        setting = run.setting(
            Kind.NUDGING.label,
            lambda: {"threshold": fit_threshold(bridge, self._held_out, progress=self._progress)},
        )
        bridge.guard = Nudging(sure=setting["threshold"])
        return of_model(Kind.NUDGING.label, bridge, bridge.vocabulary)

    def _control(self, run: Run) -> Contender:
        base, name = self._base(), self._names.control
        assert name is not None
        source = load_value_network(Path(name), device=self._device)
        if source.vocabulary.fingerprint != base.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{name} has another tokenizer than {base.name}; a control is a value network of the base's own"
            )
        bridge = Bridge(base, [_in_one_vocabulary(source)])
        carries = (Carry.LINEAR, Carry.STATIC)
        setting = run.setting(
            Kind.CONTROL.label,
            lambda: self._chosen(bridge, [Policy.RETOKENIZE], carries, given=Combination(Carry.LINEAR)),
        )
        return self._set(Kind.CONTROL, bridge, setting)

    def _ceiling(self, _run: Run) -> Contender:
        name = self._names.ceiling
        assert name is not None
        if (Path(name) / CONFIG).is_file():
            return of_source(Kind.CEILING.label, load_value_network(Path(name), device=self._device))
        loaded = load_model(name, device=self._device)
        return of_model(Kind.CEILING.label, loaded.model, loaded.vocabulary)

    def _over_base(self) -> Bridge:
        base = self._base()
        return Bridge(base, [self._steering(base.vocabulary)])

    def _set(self, kind: Kind, bridge: Bridge, setting: dict[str, Any]) -> Contender:
        bridge.steering.combination = Combination.from_dict(setting["combination"])
        bridge.steering.policy = Policy(setting["policy"])
        return of_model(kind.label, bridge, bridge.vocabulary)

    def _chosen(
        self,
        bridge: Bridge,
        policies: Sequence[Policy],
        carries: Sequence[Carry],
        form: Form | None = None,
        given: Combination | None = None,
    ) -> dict[str, Any]:
        """The best weights, carry, form and policy on the validation items, and all that were tried."""
        if not self._held_out:
            combination = given or self._combination or Combination()
            return {"combination": combination.as_dict(), "policy": policies[0].value, "fits": []}
        found: list[tuple[Policy, Fit]] = []
        for policy in policies:
            bridge.steering.policy = policy
            fits = fit_combination(bridge, self._held_out, carries=carries, progress=self._progress)
            found += [(policy, fit) for fit in fits if form in (None, fit.combination.form)]
        found.sort(key=lambda one: one[1].bits)
        policy, best = found[0]
        return {
            "combination": best.combination.as_dict(),
            "policy": policy.value,
            "fits": [
                asdict(fit) | {"combination": fit.combination.as_dict(), "policy": policy.value}
                for policy, fit in found
            ],
        }


def of_model(name: str, model: PreTrainedModel, vocabulary: Vocabulary) -> Contender:
    """A model as it is, a bridge among them."""

    def logits(ids: Tensor, keep: int) -> Tensor:
        return model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]

    return Contender(name, model, vocabulary, logits)


def of_source(name: str, source: ValueSource) -> Contender:
    """A donor alone, read in its own vocabulary."""
    return Contender(name, donor(source), source.vocabulary, _donor_logits(source))


def donor(source: ValueSource) -> PreTrainedModel:
    """The donor alone as a causal language model: the tuned model of a pair, or a base with its value network."""
    if isinstance(source, ContrastPair):
        return source.tuned
    assert isinstance(source, ValueNetwork)
    return Bridge(LoadedModel("", "", source.base, source.vocabulary), [_in_one_vocabulary(source)])


def _in_one_vocabulary(source: ValueSource) -> Steering:
    """A value source over a model that has its own vocabulary: logits are added, and nothing is carried."""
    return Steering(
        source,
        source.vocabulary,
        Projection.identity(source.vocabulary.size),
        Combination(Carry.LINEAR),
        policy=Policy.RETOKENIZE,
    )


def _donor_logits(source: ValueSource) -> Callable[[Tensor, int], Tensor]:
    def logits(ids: Tensor, keep: int) -> Tensor:
        models = {name: source.models[name] for name in source.needed(tuned=True)}
        said = run(models, lambda _name: {"input_ids": ids, "use_cache": False}, keep)
        tuned = source.scores({name: logits[0].float() for name, logits in said.items()}).tuned
        assert tuned is not None
        return tuned

    return logits
