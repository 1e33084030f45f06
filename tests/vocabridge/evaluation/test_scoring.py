"""Mixture, nudging, proxy-tuning and control equal their equations, and each setting is the best of those tried."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.bridge.model import Bridge
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.contenders import CONTENDERS
from vocabridge.evaluation.contenders.bridge_setting import ALPHAS
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.contenders.nudging import _THRESHOLDS, PROJECTED_DONOR, Nudging, fit_threshold
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.run_store import RunStore, Workers
from vocabridge.models.examples import Example, tokenize
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_network, new_value_network, save_value_network
from vocabridge.options import BoundaryPolicy, Contender, Form, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.utils.progress import no_progress

HELD_OUT = [Example(f"Question: {n} foxes?\nAnswer:", f" {2 * n} dogs.", None, str(n), str(n)) for n in (3, 12, 24)]
ITEM = Example("The quick brown", " fox jumps over 12 lazy dogs.", None, "x", "x")


@pytest.fixture
def made(model_folders, tmp_path):
    """Return a function that makes a contender, and returns it with its recorded setting."""
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(tmp_path / "pair.safetensors")
    run = RunStore(tmp_path / "run", {}, Workers())

    def made(kind, held_out=HELD_OUT, **settings):
        config = EvaluationConfig(
            "test.jsonl",
            base=str(model_folders.target),
            value=str(model_folders.tuned),
            untuned=str(model_folders.source),
            alignment=tmp_path / "pair.safetensors",
            validation="validation.jsonl",
            policies=(BoundaryPolicy.HEAL,),
            **settings,
        )
        inputs = Inputs(config, ModelPool(config, "cpu"), held_out, run, no_progress)
        return CONTENDERS[kind].load(inputs), run.get(CONTENDERS[kind].label, "setting")

    return made


def probabilities(model, example=ITEM):
    tokens = tokenize(example, model.vocabulary)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens.ids[:-1]]), use_cache=False).logits[0, tokens.first - 1 :]
    return logits.float().softmax(-1)


def base_probabilities(bridge):
    bridge.steering.strength = 0.0
    p_base = probabilities(bridge)
    bridge.steering.strength = 1.0
    return p_base


def test_the_mixture_is_the_mean_of_base_and_donor_by_the_static_method(made):
    contender, setting = made(Contender.MIXTURE)
    bridge, share = contender.model, setting["combination"]["tuned_weight"]
    assert (bridge.steering.policy, setting["combination"]["form"]) == (BoundaryPolicy.AS_IS, "mixture")
    assert 0 < share < 1
    mixed, base = probabilities(bridge), base_probabilities(bridge)
    bridge.steering.combination = Combination(ProjectionMethod.STATIC, 0.0, 1.0, 0.0, Form.MIXTURE)
    donor = probabilities(bridge)
    torch.testing.assert_close(mixed, (1 - share) * base + share * donor, atol=1e-4, rtol=1e-3)


def test_nudging_is_the_donor_where_the_base_is_unsure_and_the_base_elsewhere(made):
    bridge = made(Contender.NUDGING)[0].model
    base, bridge.limits = base_probabilities(bridge), Nudging(sure=1.1)
    donor = probabilities(bridge)
    middle = base.amax(-1).median().item()
    bridge.limits = Nudging(sure=middle)
    unsure = (base.amax(-1) < middle)[:, None]
    assert 0 < unsure.sum() < len(unsure)
    torch.testing.assert_close(probabilities(bridge), torch.where(unsure, donor, base), atol=1e-5, rtol=1e-3)


def test_proxy_tuning_is_its_sum_by_the_static_method(made):
    contender, setting = made(Contender.PROXY_TUNING)
    bridge, alpha = contender.model, setting["strength"]
    assert (bridge.steering.policy, bridge.steering.strength) == (BoundaryPolicy.AS_IS, alpha)
    assert setting["combination"] == Combination(ProjectionMethod.STATIC).as_dict()
    log_p, bridge.steering.strength = base_probabilities(bridge).log(), 0.75
    steered, bridge.steering.strength = probabilities(bridge), 1.0
    bridge.steering.combination = Combination(ProjectionMethod.STATIC, 0.0, 1.0, 0.0)
    tuned = probabilities(bridge).log()
    bridge.steering.combination = Combination(ProjectionMethod.STATIC, 0.0, 0.0, -1.0)
    untuned = probabilities(bridge).log()
    expected = (log_p + 0.75 * (tuned - untuned)).softmax(-1)
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-3)


def test_the_strength_of_proxy_tuning_is_the_best_on_the_validation_items(made):
    contender, setting = made(Contender.PROXY_TUNING)
    assert [loss["alpha"] for loss in setting["by_alpha"]] == [*ALPHAS]
    losses = []
    for alpha in ALPHAS:
        contender.model.steering.strength = alpha
        losses.append(sum(sum(contender.score_response(example)["bits"]) for example in HELD_OUT))
    assert losses[ALPHAS.index(setting["strength"])] == pytest.approx(min(losses), rel=1e-3)


def test_without_validation_items_proxy_tuning_has_strength_1(made):
    _, setting = made(Contender.PROXY_TUNING, held_out=[])
    assert (setting["strength"], setting["fits"]) == (1.0, [])


def test_a_setting_made_without_validation_items_is_not_used_with_some(made):
    made(Contender.PROXY_TUNING, held_out=[])
    with pytest.raises(VocabridgeError, match="setting of proxy-tuning was made without validation items"):
        made(Contender.PROXY_TUNING)


def test_given_weights_get_the_best_of_several_strengths(made, tmp_path):
    given = Combination(ProjectionMethod.INFORMED, 0.5, 0.6, 0.1)
    (tmp_path / "weights.json").write_text(json.dumps(given.as_dict()))
    contender, setting = made(Contender.BRIDGE, combination=tmp_path / "weights.json", alphas=(0.3, 0.6, 2.0))
    assert setting["combination"] == given.as_dict()
    assert contender.model.steering.strength == setting["strength"]
    bits = {loss["alpha"]: loss["bits"] for loss in setting["by_alpha"]}
    assert [*bits] == sorted({*ALPHAS, 0.3, 0.6, 2.0})
    assert setting["strength"] == min((0.3, 0.6, 2.0), key=bits.get)
    (fit,) = setting["fits"]
    assert fit["bits"] == bits[setting["strength"]]


def test_the_threshold_of_nudging_is_the_best_on_the_validation_items(made):
    contender, setting = made(Contender.NUDGING)
    bridge = contender.model
    assert bridge.limits.sure == setting["threshold"]
    assert bridge.steering.combination == PROJECTED_DONOR
    losses = []
    for threshold in _THRESHOLDS:
        bridge.limits = Nudging(sure=float(threshold))
        losses.append(sum(sum(contender.score_response(example)["bits"]) for example in HELD_OUT))
    assert losses[[*_THRESHOLDS].index(setting["threshold"])] == pytest.approx(min(losses), rel=1e-3)
    bridge.limits = Nudging(sure=1.1)
    assert fit_threshold(bridge, HELD_OUT) == setting["threshold"]


def test_the_control_adds_logits_without_projection(made, model_folders, tmp_path):
    network = new_value_network(str(model_folders.target), method="lora", rank=1)
    torch.nn.init.normal_(network.value.projection.weight, std=0.3)
    save_value_network(network, tmp_path / "own", {})
    contender, setting = made(Contender.CONTROL, held_out=[], control=str(tmp_path / "own"))
    assert setting["combination"] == Combination(ProjectionMethod.LINEAR).as_dict()
    base, value = load_model(str(model_folders.target)), load_value_network(tmp_path / "own").value
    tokens = tokenize(ITEM, base.vocabulary)
    ids = torch.tensor([tokens.ids[:-1]])
    with torch.no_grad():
        summed = base.model(input_ids=ids).logits[0].float() + value(ids).logits[0].float()
    expected = summed[tokens.first - 1 :].softmax(-1)
    assert isinstance(contender.model, Bridge)
    torch.testing.assert_close(probabilities(contender.model), expected, atol=1e-2, rtol=2e-2)


def test_a_recorded_setting_is_not_chosen_again(made):
    _, setting = made(Contender.BRIDGE)
    bits = [fit["bits"] for fit in setting["fits"]]
    assert bits == sorted(bits)
    assert np.isfinite(bits).all()
    contender, again = made(Contender.BRIDGE, held_out=[])
    assert again == setting
    assert contender.model.steering.combination == Combination.from_dict(setting["combination"])
    assert contender.model.steering.policy is BoundaryPolicy.HEAL
