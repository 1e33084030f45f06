"""Methods, forms and weights: the change of logits at every strength and for any logits, and the file of weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.models.value_source import Scores
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import UNFITTED, Combination
from vocabridge.projection.methods import METHODS
from vocabridge.projection.projection import Projection
from vocabridge.projection.source_predictions import ResolvedPredictions

DISTRIBUTIONS = [method for method in ProjectionMethod if not METHODS[method].of_logit_delta]
EVERYTHING = [(method, Form.PRODUCT) for method in ProjectionMethod] + [
    (method, Form.MIXTURE) for method in DISTRIBUTIONS
]
seeds = st.integers(0, 10_000)


@dataclass(frozen=True)
class Case:
    """Scores at n positions, and the projection from their vocabulary to the base's."""

    projection: Projection
    base: torch.Tensor
    scores: Scores

    @classmethod
    def draw(cls, seed: int, projection: Projection, sizes: tuple[int, int], spread: float = 3.0, n: int = 3) -> Case:
        """Draw logits of a given spread; with a large spread, some of the base's are -inf."""
        generator = torch.Generator().manual_seed(seed)
        tuned, untuned = (torch.randn(n, sizes[0], generator=generator) * spread for _ in range(2))
        base = torch.randn(n, sizes[1], generator=generator) * spread
        if spread > 3:
            base[:, 1:][torch.rand(n, sizes[1] - 1, generator=generator) < 0.2] = -torch.inf
        return cls(projection, base, Scores(tuned - untuned, tuned, untuned))

    def change(self, combination: Combination, strength: float | torch.Tensor = 1.0) -> torch.Tensor:
        predictions = ResolvedPredictions(self.scores, torch.ones(len(self.base), 1))
        return combination.change(self.projection, self.base, self.base.softmax(-1), predictions, strength)


@pytest.fixture(scope="module")
def projection(parts) -> Projection:
    return Projection.of(parts.alignment)


@pytest.fixture(scope="module")
def sizes(parts) -> tuple[int, int]:
    return parts.small.vocabulary.size, parts.base.vocabulary.size


def same(seed: int, **arguments) -> Case:
    """Draw scores over the base's own vocabulary."""
    return Case.draw(seed, Projection.identity(40), (40, 40), **arguments)


@settings(max_examples=examples(30))
@given(seed=seeds, weights=st.tuples(*[st.floats(-2, 2)] * 3), strength=st.floats(-2, 2))
@pytest.mark.parametrize("method", ProjectionMethod)
def test_in_one_vocabulary_the_product_is_the_plain_sum_of_logits(method, seed, weights, strength):
    case, (a, b, c) = same(seed), weights
    if METHODS[method].of_logit_delta:
        expected_change = (a - 1) * case.base + b * case.scores.delta
    else:
        expected_change = (a - 1) * case.base + b * case.scores.tuned - c * case.scores.untuned
    found = case.base + case.change(Combination(method, *weights), strength)
    expected = case.base + strength * expected_change
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=2e-4, rtol=1e-4)


@settings(max_examples=examples(30))
@given(
    seed=seeds,
    weights=st.tuples(st.floats(0, 2), st.floats(0.01, 2)),
    strength=st.floats(0, 1),
    spread=st.sampled_from([0.1, 3.0, 40.0]),
)
def test_in_one_vocabulary_the_mixture_is_the_plain_mean_of_probabilities(seed, weights, strength, spread):
    """Also where the base's probability of a token that the donor wants is too small for a float32."""
    case, (a, b) = same(seed, spread=spread), weights
    base = case.base.clamp_min(-1e3)
    case = Case(case.projection, base, case.scores)
    found = (
        (base + case.change(Combination(ProjectionMethod.STATIC, a, b, form=Form.MIXTURE), strength))
        .double()
        .softmax(-1)
    )
    p, q = base.double().softmax(-1), case.scores.tuned.double().softmax(-1)
    expected = (1 - strength) * p + strength * (a * p + b * q) / (a + b)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-3)  # a float32 rounds the share to 6e-8


@pytest.mark.parametrize("method", DISTRIBUTIONS)
def test_the_share_of_a_mixtures_donor_stops_at_none_and_at_all(method, projection, sizes):
    case = Case.draw(0, projection, sizes)
    mixture = Combination(method, 0.25, 0.75, form=Form.MIXTURE)
    alone = (case.base + case.change(mixture, 4 / 3)).softmax(-1)
    expected = case.change(Combination(method, 0, 1, 0)) + case.base
    torch.testing.assert_close(alone, expected.softmax(-1), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(case.change(mixture, 20.0), case.change(mixture, 4 / 3))
    assert not case.change(mixture, -1.0).any()


@settings(max_examples=examples(10))
@given(seed=seeds, spread=st.sampled_from([0.0, 3.0, 100.0, 1e4]))
@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_for_any_logits_the_change_is_finite_and_tokens_that_the_base_excludes_stay_excluded(
    method, form, seed, spread, projection, sizes
):
    case = Case.draw(seed, projection, sizes, spread)
    for weights in [(0, 1, 0), (1, 1, 1), (0.3, 0.9, 0.2), (2, 1, 1)]:
        for strength in (1.0, 0.3, 5.0, torch.tensor([[0.0], [0.5], [1.0]])):
            change = case.change(Combination(method, *weights, form), strength)
            assert change.isfinite().all()
            p = (case.base + change).softmax(-1)
            torch.testing.assert_close(p.sum(-1), torch.ones(3), atol=1e-4, rtol=0)
            assert (p[case.base == -torch.inf] == 0).all()


@settings(max_examples=examples(10))
@given(seed=seeds, spread=st.sampled_from([0.0, 3.0, 100.0, 1e4]))
@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_at_strength_0_the_change_is_exactly_0(method, form, seed, spread, projection, sizes):
    case, combination = Case.draw(seed, projection, sizes, spread), Combination(method, 0.3, 0.9, 0.2, form)
    assert torch.equal(case.change(combination, 0.0), torch.zeros_like(case.base))
    by_position = case.change(combination, torch.tensor([[0.0], [0.7], [0.0]]))
    assert not by_position[[0, 2]].any()
    assert by_position[1].any() or spread == 0


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_a_strength_can_be_put_into_the_weights(method, form, strength, projection, sizes):
    case, combination = Case.draw(0, projection, sizes), Combination(method, 0.7, 0.9, 0.2, form)
    expected = (case.base + case.change(combination, strength)).softmax(-1)
    found = (case.base + case.change(combination.at(strength))).softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_strengths_by_position_are_those_of_each_position(method, form, projection, sizes):
    case, combination = Case.draw(0, projection, sizes), Combination(method, 0.3, 0.9, 0.2, form)
    strengths = [0.2, 1.0, 1.2]
    found = case.change(combination, torch.tensor(strengths).unsqueeze(-1))
    for position, strength in enumerate(strengths):
        torch.testing.assert_close(found[position], case.change(combination, strength)[position], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_no_scores_are_overwritten(method, form, projection, sizes):
    for mapping, (source, target) in ((projection, sizes), (Projection.identity(40), (40, 40))):
        case, before = Case.draw(0, mapping, (source, target)), Case.draw(0, mapping, (source, target))
        p_base = case.base.softmax(-1)
        combination = Combination(method, 0.3, 0.9, 0.2, form)
        predictions = ResolvedPredictions(case.scores, torch.ones(3, 1))
        found = combination.change(mapping, case.base, p_base, predictions, 0.5)
        found.fill_(7.0)
        assert torch.equal(p_base, before.base.softmax(-1))
        assert torch.equal(case.base, before.base)
        for name in ("delta", "tuned", "untuned"):
            assert torch.equal(getattr(case.scores, name), getattr(before.scores, name))


@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_only_the_required_scores_are_used(method, form, projection, sizes):
    case = Case.draw(0, projection, sizes)
    for weights in [(0.5, 1, 0), (0.5, 0, 1), (0.5, 0, 0)]:
        combination = Combination(method, *weights, form)
        required = combination.required_scores
        some = Scores(**{name: logits for name, logits in vars(case.scores).items() if name in required})
        found = Case(case.projection, case.base, some).change(combination)
        torch.testing.assert_close(found, case.change(combination))


@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_a_change_is_the_same_where_gradients_are_recorded(method, form, projection, sizes):
    case, combination = Case.draw(0, projection, sizes), Combination(method, 0.3, 0.9, 0.2, form)
    recorded = Case(case.projection, case.base.clone().requires_grad_(), case.scores)
    assert torch.equal(recorded.change(combination), case.change(combination))


@pytest.mark.quick(2)
@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_it_compiles_in_one_graph(method, form, projection, sizes):
    case, combination = Case.draw(0, projection, sizes), Combination(method, 0.3, 0.9, 0.2, form)
    strength = torch.tensor([[0.0], [0.5], [1.0]])
    torch._dynamo.reset()
    compiled = torch.compile(Case.change, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(case, combination, strength), case.change(combination, strength))


@pytest.mark.parametrize("method", [ProjectionMethod.LINEAR, ProjectionMethod.EXPONENTIAL])
def test_a_change_of_logits_has_no_mixture(method):
    with pytest.raises(VocabridgeError, match=f"the {method.value} method projects a change of logits"):
        Combination(method, form=Form.MIXTURE)


@pytest.mark.parametrize("weights", [(-1, 2), (1, -0.1), (0, 0)])
def test_the_weights_of_a_mixture_are_shares(weights):
    with pytest.raises(VocabridgeError, match="at least 0, not both 0"):
        Combination(ProjectionMethod.STATIC, *weights, form=Form.MIXTURE)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(weight):
    for weights in [(weight, 1, 1), (1, weight, 1), (1, 1, weight)]:
        with pytest.raises(VocabridgeError, match="finite"):
            Combination(ProjectionMethod.STATIC, *weights)


@pytest.mark.parametrize(
    ("combination", "required"),
    [
        (Combination(ProjectionMethod.LINEAR), ("delta",)),
        (Combination(ProjectionMethod.EXPONENTIAL, 1, 0, 1), ()),
        (
            Combination(ProjectionMethod.INFORMED),
            (
                "tuned",
                "untuned",
            ),
        ),
        (Combination(ProjectionMethod.STATIC, 1, 1, 0), ("tuned",)),
        (Combination(ProjectionMethod.INFORMED, 1, 0, 0), ()),
        (Combination(ProjectionMethod.INFORMED, 1, 1, 1, Form.MIXTURE), ("tuned",)),
        (Combination(ProjectionMethod.INFORMED, 1, 0, 1, Form.MIXTURE), ()),
    ],
)
def test_only_scores_with_a_weight_are_required(combination, required):
    assert combination.required_scores == required


@pytest.mark.parametrize(
    ("method", "weights", "run"),
    [
        (ProjectionMethod.INFORMED, (1, 1, 1), {"tuned", "untuned"}),
        (ProjectionMethod.INFORMED, (1, 1, 0), {"tuned"}),
        (ProjectionMethod.STATIC, (0, 1, 0), {"tuned"}),
        (ProjectionMethod.STATIC, (1, 0, 1), {"untuned"}),
        (ProjectionMethod.INFORMED, (1, 0, 0), set()),
        (ProjectionMethod.LINEAR, (1, 1, 1), {"tuned", "untuned"}),
        (ProjectionMethod.LINEAR, (1, 0, 1), set()),
    ],
)
def test_models_of_weight_0_are_not_run(parts, method, weights, run, forwards):
    bridge = parts.bridge(method=method, weights=weights)
    seen = {name: forwards(model) for name, model in bridge.steering.source.models.items()}
    ids = torch.tensor([[0, 300, 301]])
    with torch.no_grad():
        logits = bridge(ids).logits
        expected = parts.base.model(ids).logits
    assert {name for name, calls in seen.items() if calls} == run
    if not run:
        assert torch.equal(logits, expected)


def test_a_value_networks_change_alone_does_not_run_its_base(parts):
    source = parts.residual(0.1)
    assert source.required_models({"delta"}) == {"value"}
    assert source.required_models({"tuned"}) == {"value", "untuned"}
    assert source.required_models({"untuned"}) == {"untuned"}


def test_the_product_is_the_weighted_sum_of_its_parts(parts):
    """Each part is a bridge with one weight."""
    ids = torch.tensor([[0, 400, 301, 350]])
    with torch.no_grad():
        base = parts.base.model(ids).logits
        several = [(0, 1, 0), (0, 0, 1), (0.5, 0.8, 0.3)]
        at = {w: parts.bridge(weights=w, policy=BoundaryPolicy.HEAL)(ids).logits for w in several}
    active = (at[0, 1, 0] != base).any(-1)
    expected = 0.5 * base + 0.8 * at[0, 1, 0] + 0.3 * at[0, 0, 1]
    torch.testing.assert_close(at[0.5, 0.8, 0.3][active], expected[active], atol=1e-3, rtol=1e-3)


def test_the_projected_donor_alone_keeps_the_bases_log_sum_exp(parts):
    ids = torch.tensor([[0, 400, 301, 350]])
    with torch.no_grad():
        logits, base = parts.bridge(weights=(0, 1, 0))(ids).logits, parts.base.model(ids).logits
    torch.testing.assert_close(logits[:, 1:].logsumexp(-1), base[:, 1:].logsumexp(-1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("method", "form"), EVERYTHING)
def test_a_combination_comes_back_from_its_file(tmp_path, method, form):
    combination = Combination(method, 0.25, 0.9, 0.1, form)
    (tmp_path / "weights.json").write_text(json.dumps(combination.as_dict()))
    assert Combination.load(tmp_path / "weights.json") == combination


def test_a_combination_comes_back_from_a_report_of_eval(tmp_path):
    combination = Combination(ProjectionMethod.STATIC, 0.25, 0.9, 0.1)
    (tmp_path / "report.json").write_text(json.dumps({"base": "gemma", "combination": combination.as_dict()}))
    assert Combination.load(tmp_path / "report.json") == combination


def test_a_file_records_whether_weights_were_fitted_and_given_weights_count_as_fitted(tmp_path):
    (tmp_path / "weights.json").write_text(json.dumps(UNFITTED.as_dict()))
    again = Combination.load(tmp_path / "weights.json")
    assert again == UNFITTED
    assert not again.fitted
    assert not again.at(0.5).fitted
    assert Combination(
        base_weight=again.base_weight, tuned_weight=again.tuned_weight, untuned_weight=again.untuned_weight
    ).fitted
    (tmp_path / "weights.json").write_text(
        '{"method": "informed", "form": "product", "base_weight": 0.45, "tuned_weight": 0.75, "untuned_weight": 0.1}'
    )
    assert Combination.load(tmp_path / "weights.json").fitted


def test_without_a_combination_a_bridge_has_the_unfitted_one(parts):
    assert Bridge.over(parts.base, parts.pair, parts.alignment).steering.combination == UNFITTED
    assert Steering.over(parts.base.vocabulary, parts.pair, parts.alignment).combination == UNFITTED


@pytest.mark.parametrize("method", ProjectionMethod)
def test_without_weights_a_combination_is_the_plain_sum_as_in_the_paper_and_in_proxy_tuning(method):
    combination = Combination(method)
    assert (combination.base_weight, combination.tuned_weight, combination.untuned_weight) == (1, 1, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"method": "linear"}',
        b'{"combination": {}}',
        b'{"combination": 3}',
        b'{"method": "guess", "base_weight": 1, "tuned_weight": 1, "untuned_weight": 1}',
        b'{"method": "linear", "base_weight": 1, "tuned_weight": 1, "untuned_weight": 1, "fitted": "no"}',
        b'{"method": "linear", "base_weight": null, "tuned_weight": 1, "untuned_weight": 1}',
        b'{"method": "linear", "base_weight": NaN, "tuned_weight": 1, "untuned_weight": 1}',
        b'{"method": "static", "form": "sum", "base_weight": 1, "tuned_weight": 1, "untuned_weight": 1}',
        b'{"method": "linear", "form": "mixture", "base_weight": 1, "tuned_weight": 1, "untuned_weight": 1}',
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
