"""Fitting recovers known weights in both forms, and its bits are those of the bridge, also with drawn tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vocabridge.bridge import fitting
from vocabridge.bridge.fitting import Features, fit_combination
from vocabridge.bridge.source_streams import SourceStreams
from vocabridge.models.examples import Example, tokenize
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import Combination

ITEMS = [
    Example(f"Question: {n} foxes?\nAnswer:", f" {n}*2={2 * n} foxes. 🙂\n#### {2 * n}\n", str(2 * n), str(n), str(n))
    for n in (3, 12, 24, 345)
]


@pytest.mark.parametrize(
    ("method", "weights"), [(ProjectionMethod.INFORMED, (0.3, 0.9, 0.2)), (ProjectionMethod.LINEAR, (0.7, 1.4))]
)
def test_known_weights_are_found_again(method, weights):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 50, len(weights))) * 2
    signs = [1, 1, -1][: len(weights)]
    scores = features @ (np.array(weights) * signs)
    truth = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    features_of_texts = Features({method: features.astype(np.float32)}, np.zeros(scores.shape), truth)
    fit = features_of_texts.judge(features_of_texts.fitted()[0])
    found = [fit.combination.base_weight, fit.combination.tuned_weight, fit.combination.untuned_weight][: len(weights)]
    assert found == pytest.approx(weights, abs=0.06)
    assert fit.bits < fit.paper_bits
    assert fit.positions == 4000


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_a_known_share_is_found_again(share):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(50), (2, 6000))
    which = np.where(rng.random(6000) < share, 1, 0)
    truth = np.array([rng.choice(50, p=(p, q)[side][i]) for i, side in enumerate(which)])
    rows = np.arange(6000)
    features = np.log(np.stack([p, q, np.full_like(p, 0.02)], -1))
    features_of_texts = Features({ProjectionMethod.STATIC: features}, np.zeros(p.shape), truth)
    fit = features_of_texts.judge(features_of_texts.fitted()[1])
    assert fit.combination.tuned_weight == pytest.approx(share, abs=0.05)
    assert fit.combination.base_weight == pytest.approx(1 - fit.combination.tuned_weight, abs=1e-4)
    mixed = (1 - fit.combination.tuned_weight) * p + fit.combination.tuned_weight * q
    assert fit.bits == pytest.approx(-np.log2(mixed[rows, truth]).mean())
    assert (fit.combination.form, fit.paper_bits, fit.positions) == (Form.MIXTURE, None, 6000)


def test_every_method_is_fitted_in_every_form_that_it_has(parts):
    calls = []
    fits = fit_combination(parts.bridge(), ITEMS, progress=lambda *args: calls.append(args[:2]))
    forms = [(fit.combination.method, fit.combination.form) for fit in fits]
    assert len(forms) == len(ProjectionMethod) + 2
    assert set(forms) == {(method, Form.PRODUCT) for method in ProjectionMethod} | {
        (ProjectionMethod.STATIC, Form.MIXTURE),
        (ProjectionMethod.INFORMED, Form.MIXTURE),
    }
    assert [fit.bits for fit in fits] == sorted(fit.bits for fit in fits)
    assert calls == [(n, 4) for n in range(1, 5)]


def test_a_product_is_never_worse_than_the_papers_weights_on_its_own_texts(parts):
    fits = [fit for fit in fit_combination(parts.bridge(), ITEMS) if fit.combination.form is Form.PRODUCT]
    assert all(fit.bits <= fit.paper_bits + 1e-9 for fit in fits)
    assert all(
        min(fit.combination.base_weight, fit.combination.tuned_weight, fit.combination.untuned_weight) >= 0
        for fit in fits
    )


def bits_of_bridge(bridge, combination, strength=1.0) -> float:
    """Return the bits per response token where the source predicts, from the bridge's own logits."""
    bits = []
    for item in ITEMS:
        tokens = tokenize(item, bridge.vocabulary)
        ids, truth = torch.tensor([tokens.ids[:-1]]), torch.tensor(tokens.ids[tokens.first :])
        with torch.no_grad():
            bridge.steering.combination, bridge.steering.strength = Combination(), 1.0
            ((steering, stream, positions),) = SourceStreams().advance(bridge.steerings, ids.tolist(), 0, len(truth))
            active = stream.predictor.predict(positions, steering.combination.required_scores, ids.device).active
            bridge.steering.combination, bridge.steering.strength = combination, strength
            log_p = bridge(ids, use_cache=False).logits[0, -len(truth) :].log_softmax(-1)
        bits += (-log_p.gather(1, truth[:, None])[:, 0] / np.log(2))[active[:, 0] > 0].tolist()
    return float(np.mean(bits))


@pytest.mark.quick(2)
@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_the_bits_of_a_fit_are_those_of_the_bridge_with_it(parts, policy):
    bridge = parts.bridge(policy=policy)
    for fit in fit_combination(bridge, ITEMS):
        if not fit.combination.required_scores:
            continue  # the fit gave these random sources no weight, so the base is unchanged
        assert fit.bits == pytest.approx(bits_of_bridge(bridge, fit.combination), rel=2e-3)
        if fit.paper_bits is not None:
            paper = bits_of_bridge(bridge, Combination(fit.combination.method))
            assert fit.paper_bits == pytest.approx(paper, rel=2e-3)


def test_a_fit_does_not_depend_on_the_bridges_own_combination(parts):
    expected = fit_combination(parts.bridge(), ITEMS)
    for method, weights in ((ProjectionMethod.LINEAR, (1.0, 1.0, 1.0)), (ProjectionMethod.INFORMED, (1.0, 0.0, 0.0))):
        found = fit_combination(parts.bridge(method=method, weights=weights), ITEMS)
        assert [fit.combination for fit in found] == [fit.combination for fit in expected]


def test_tokens_that_are_drawn_stand_for_those_that_are_not_kept(parts, monkeypatch):
    """With most of the vocabulary left out, bits and weights are nearly those of the whole vocabulary."""
    with_all_tokens = {(f.combination.method, f.combination.form): f for f in fit_combination(parts.bridge(), ITEMS)}
    monkeypatch.setattr(fitting, "_MOST_LIKELY", 40)
    for fit in fit_combination(parts.bridge(), ITEMS):
        expected = with_all_tokens[fit.combination.method, fit.combination.form]
        assert fit.bits == pytest.approx(expected.bits, rel=0.02)
        assert fit.combination.tuned_weight == pytest.approx(expected.combination.tuned_weight, abs=0.1)


@pytest.mark.parametrize(
    "combination",
    [
        Combination(ProjectionMethod.INFORMED, 0.6, 0.7, 0.2),
        Combination(ProjectionMethod.EXPONENTIAL, 0.9, 0.5, 0.5),
        Combination(ProjectionMethod.STATIC, 0.4, 0.6, 0.0, Form.MIXTURE),
    ],
)
def test_one_run_of_the_models_gives_the_bits_at_every_strength(parts, forwards, combination):
    bridge = parts.bridge()
    features = Features.of(bridge, ITEMS, [combination.method])
    seen = forwards(bridge.base)
    found = {strength: features.bits(combination, strength) for strength in (0.0, 0.5, 1.0, 1.5)}
    best = features.judge(combination, [*found])
    assert seen == []
    assert len(set(found.values())) == 4
    assert (best.strength, best.bits) == min(found.items(), key=lambda item: item[1])
    for strength, bits in found.items():
        assert bits == pytest.approx(bits_of_bridge(bridge, combination, strength), rel=2e-3)
