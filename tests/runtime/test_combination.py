"""Weights and carries: what strength does to them, what they need, their file; and the fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.combination import Carry, Combination
from vocabridge.examples import Example
from vocabridge.fitting import _fit, fit_combination

ITEMS = [
    Example(f"Question: {n} foxes?\nAnswer:", f" {n}*2={2 * n} foxes. 🙂\n#### {2 * n}\n", str(2 * n), str(n), str(n))
    for n in (3, 12, 24, 345)
]


@pytest.mark.parametrize("carry", Carry)
def test_strength_goes_from_the_base_alone_to_the_weights(carry):
    weights = Combination(carry, 0.25, 0.9, 0.1)
    assert weights.at(1) == weights
    assert weights.at(0) == Combination(carry, 1, 0, 0)
    half = weights.at(0.5)
    assert (half.base, half.tuned, half.untuned) == pytest.approx((0.625, 0.45, 0.05))


@pytest.mark.parametrize(
    ("combination", "needs"),
    [
        (Combination(Carry.LINEAR), {"delta": True}),
        (Combination(Carry.EXPONENTIAL, 1, 0, 1), {"delta": False}),
        (Combination(Carry.INFORMED), {"tuned": True, "untuned": True}),
        (Combination(Carry.STATIC, 1, 1, 0), {"tuned": True, "untuned": False}),
        (Combination(Carry.INFORMED, 1, 0, 0), {"tuned": False, "untuned": False}),
    ],
)
def test_only_scores_with_a_weight_are_needed(combination, needs):
    assert combination.needs() == needs


@pytest.mark.parametrize(
    ("carry", "weights", "run"),
    [
        (Carry.INFORMED, (1, 1, 1), {"tuned", "untuned"}),
        (Carry.INFORMED, (1, 1, 0), {"tuned"}),
        (Carry.STATIC, (0, 1, 0), {"tuned"}),
        (Carry.STATIC, (1, 0, 1), {"untuned"}),
        (Carry.INFORMED, (1, 0, 0), set()),
        (Carry.LINEAR, (1, 1, 1), {"tuned", "untuned"}),
        (Carry.LINEAR, (1, 0, 1), set()),
    ],
)
def test_models_of_weight_0_are_not_run(parts, carry, weights, run):
    bridge, ran = parts.bridge(carry=carry, weights=weights), set()
    hooks = [
        model.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, model in bridge.source.models.items()
    ]
    ids = torch.tensor([[0, 300, 301]])
    try:
        with torch.no_grad():
            logits = bridge(ids).logits
            expected = parts.base.model(ids).logits
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == run
    if not run:
        assert torch.equal(logits, expected)


def test_a_value_networks_change_alone_does_not_run_its_base(parts):
    source = parts.residual(0.1)
    assert source.needed(delta=True) == {"value"}
    assert source.needed(tuned=True) == {"value", "base"}
    assert source.needed(untuned=True) == {"base"}


def test_the_family(parts):
    """The weighted sum, from its parts."""
    ids = torch.tensor([[0, 400, 301, 350]])
    with torch.no_grad():
        base = parts.base.model(ids).logits
        at = {w: parts.bridge(weights=w)(ids).logits for w in [(0, 1, 0), (0, 0, 1), (0.5, 0.8, 0.3)]}
    speaks = (at[0, 1, 0] != base).any(-1)
    expected = 0.5 * base + 0.8 * at[0, 1, 0] + 0.3 * at[0, 0, 1]
    torch.testing.assert_close(at[0.5, 0.8, 0.3][speaks], expected[speaks], atol=1e-3, rtol=1e-3)


def test_the_donor_alone_carried_is_a_distribution(parts):
    with torch.no_grad():
        logits = parts.bridge(weights=(0, 1, 0))(torch.tensor([[0, 400, 301, 350]])).logits
    torch.testing.assert_close(logits[:, 1:].logsumexp(-1), torch.zeros(1, 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("carry", Carry)
def test_a_combination_comes_back_from_its_file(tmp_path, carry):
    combination = Combination(carry, 0.25, 0.9, 0.1)
    combination.save(tmp_path / "weights.json")
    assert Combination.load(tmp_path / "weights.json") == combination


def test_a_combination_comes_back_from_a_report_of_eval(tmp_path):
    combination = Combination(Carry.STATIC, 0.25, 0.9, 0.1)
    (tmp_path / "report.json").write_text(json.dumps({"base": "gemma", "combination": combination.as_dict()}))
    assert Combination.load(tmp_path / "report.json") == combination


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"carry": "linear"}',
        b'{"combination": {}}',
        b'{"combination": 3}',
        b'{"carry": "guess", "base": 1, "tuned": 1, "untuned": 1}',
        b'{"carry": "linear", "base": null, "tuned": 1, "untuned": 1}',
    ],
)
def test_a_file_that_is_no_combination_is_refused(tmp_path, content):
    path = tmp_path / "weights.json"
    path.write_bytes(content)
    with pytest.raises(VocabridgeError, match="is not a combination") as error:
        Combination.load(path)
    assert str(path) in str(error.value)
    with pytest.raises(VocabridgeError, match="there is no file"):
        Combination.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(("carry", "weights"), [(Carry.INFORMED, (0.3, 0.9, 0.2)), (Carry.LINEAR, (0.7, 1.4))])
def test_known_weights_are_found_again(carry, weights):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 50, len(weights))) * 2
    signs = [1, 1, -1][: len(weights)]
    scores = features @ (np.array(weights) * signs)
    truth = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    fit = _fit(carry, features.astype(np.float32), truth)
    found = [fit.combination.base, fit.combination.tuned, fit.combination.untuned][: len(weights)]
    assert found == pytest.approx(weights, abs=0.06)
    assert fit.bits < fit.paper_bits
    assert fit.positions == 4000


def test_a_fit_is_never_worse_than_the_papers_weights_on_its_own_texts(parts):
    told = []
    fits = fit_combination(parts.bridge(), ITEMS, progress=lambda *args: told.append(args[:2]))
    assert {fit.combination.carry for fit in fits} == set(Carry)
    assert [fit.bits for fit in fits] == sorted(fit.bits for fit in fits)
    assert all(fit.bits <= fit.paper_bits + 1e-9 for fit in fits)
    assert all(
        weight >= 0 for fit in fits for weight in fit.combination.as_dict().values() if not isinstance(weight, str)
    )
    assert told == [(n, 4) for n in range(1, 5)]


def test_fitted_weights_are_better_on_the_bridge_itself(parts):
    bridge = parts.bridge(carry=Carry.STATIC)
    fit = fit_combination(bridge, ITEMS, carries=[Carry.STATIC])[0]

    def nats():
        total = 0.0
        for item in ITEMS:
            ids = torch.tensor([[0, *bridge.vocabulary.encode(item.text).ids.tolist()]])
            with torch.no_grad():
                logits = bridge(ids).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        return total

    before = nats()
    bridge.combination = fit.combination
    assert nats() < before
