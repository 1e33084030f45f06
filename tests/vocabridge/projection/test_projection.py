"""The four methods against dense formulas on small matrices, what holds for every matrix, and compilation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Alignment, VocabularyCard
from vocabridge.options import ProjectionMethod
from vocabridge.projection.methods import METHODS, static
from vocabridge.projection.methods.base import BaseDistribution
from vocabridge.projection.projection import Projection
from vocabridge.projection.sparse import SparseMatrix, _csr_product

# 5 target tokens and 4 source tokens; target token 3 and source token 2 are unmapped.
COUNTS = np.array(
    [[4.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
)
MAPPED_TARGET = COUNTS.sum(1) > 0
MAPPED_SOURCE = COUNTS.sum(0) > 0


def projection(counts: np.ndarray) -> Projection:
    cards = [VocabularyCard(side, size, size, side, {}) for side, size in zip("ts", counts.shape, strict=True)]
    matrix = sp.csr_array(counts.astype(np.float32))
    return Projection.of(Alignment(matrix, source=cards[1], target=cards[0], method="test", parameters={}))


def method_of(one: Projection, kind: str):
    """Return a method as a function of scores and p_T: to changes, or to distributions for the static method."""
    if kind == "static":
        return lambda p_source, p_target: static.Method().distributions(one, p_source, p_target)

    def project(scores, p_target):
        base = BaseDistribution(p_target.log(), p_target)
        return METHODS[ProjectionMethod(kind)].project(one, scores, base, None)

    return project


def normalized(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(counts / counts.sum(1, keepdims=True)), np.nan_to_num(counts / counts.sum(0))


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected(kind: str, counts: np.ndarray, p_s: np.ndarray, p_t: np.ndarray) -> np.ndarray:
    """Row by row in float64, for a distribution p_s (|S|,) and p_t (|T|,)."""
    R, C = normalized(counts)
    mapped_source, mapped_target = counts.sum(0) > 0, counts.sum(1) > 0
    p_s = p_s * mapped_source / (p_s * mapped_source).sum()
    q = p_t * (R @ np.divide(p_s, R.T @ p_t, out=np.zeros_like(p_s), where=mapped_source))
    q = C @ p_s if kind == "static" else q
    return np.where(mapped_target, q / q.sum() * p_t[mapped_target].sum(), p_t)


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4) * 2, torch.randn(3, 5) * 2


def expected_change(kind: str, counts: np.ndarray, delta: np.ndarray, p_t: np.ndarray) -> np.ndarray:
    """Row by row in float64: the projected change, moved so that the mapped tokens keep their mass."""
    R, mapped = normalized(counts)[0], counts.sum(1) > 0
    change = R[mapped] @ delta if kind == "linear" else np.log(R[mapped] @ np.exp(delta))
    found = np.zeros(len(counts))
    own = p_t[mapped]
    found[mapped] = change if mapped.all() else change - np.log((own * np.exp(change)).sum() / own.sum())
    return found


@pytest.mark.parametrize("kind", ["linear", "exponential"])
@pytest.mark.parametrize("counts", [COUNTS, COUNTS[MAPPED_TARGET]], ids=["some empty", "all mapped"])
def test_changes(scores, kind, counts):
    delta, target = scores[0], scores[1][:, : len(counts)].softmax(-1)
    found = method_of(projection(counts), kind)(delta, target)
    for row, d, p_t in zip(found, delta.numpy().astype(float), target.numpy().astype(float), strict=True):
        np.testing.assert_allclose(row, expected_change(kind, counts, d, p_t), rtol=1e-4, atol=1e-5)


def test_both_changes_of_tokens_with_one_aligned_source_token_differ_by_one_number(scores):
    delta, target = scores[0], scores[1].softmax(-1)
    both = projection(COUNTS)
    single = (COUNTS > 0).sum(1) == 1
    assert single.sum() == 2
    first, second = (method_of(both, "exponential")(delta, target) - method_of(both, "linear")(delta, target))[
        :, single
    ].T
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", ["linear", "exponential"])
@pytest.mark.parametrize("counts", [COUNTS, COUNTS[MAPPED_TARGET]], ids=["some empty", "all mapped"])
def test_no_change_projects_to_exactly_0(kind, counts):
    thirds = np.where(counts > 0, 1 / 3, 0)  # weights that sum to 1 only but for rounding
    target = torch.randn(3, len(counts)).softmax(-1)
    for matrix in (counts, thirds, np.pad(counts, ((0, 0), (0, 7)), constant_values=0.1)):
        found = method_of(projection(matrix), kind)(torch.zeros(3, matrix.shape[1]), target)
        assert torch.equal(found, torch.zeros_like(target))


@pytest.mark.parametrize("kind", ["linear", "exponential"])
@pytest.mark.parametrize("n", [1, 5])
def test_no_change_projects_to_exactly_0_in_a_vocabulary_of_some_size(kind, n):
    """Where sums of the same numbers in another order are not the same."""
    draw = np.random.default_rng(0)
    counts = np.where(draw.random((3001, 700)) < 0.002, draw.random((3001, 700)), 0)
    found = method_of(projection(counts), kind)(torch.zeros(n, 700), (3 * torch.randn(n, 3001)).softmax(-1))
    assert torch.equal(found, torch.zeros(n, 3001))


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_large_changes_are_finite_and_keep_the_mass(kind):
    delta = torch.tensor([[80.0, -80.0, 0.0, 3.0], [-80.0, 0.0, 80.0, 80.0], [500.0, -500.0, 9.0, 0.0]])
    target = torch.tensor([[0.0, 60.0, 5.0, 50.0, -60.0]]).softmax(-1).expand(3, -1)
    found = method_of(projection(COUNTS), kind)(delta, target)
    assert found.isfinite().all()
    mass = (target.double() * found.double().exp())[:, MAPPED_TARGET].sum(-1)
    torch.testing.assert_close(mass, target.double()[:, MAPPED_TARGET].sum(-1), rtol=1e-4, atol=0)


def distributions(one: Projection, kind: str):
    """Return a method of distributions as a function of p_S and p_T to q_T."""
    method = method_of(one, kind)
    return method if kind == "static" else lambda p_source, p_target: method(p_source, p_target).exp() * p_target


@pytest.mark.parametrize("kind", ["static", "informed"])
def test_probabilities(scores, kind):
    source, target = (logits.softmax(-1) for logits in scores)
    found = distributions(projection(COUNTS), kind)(source, target)
    for row, p_s, p_t in zip(found, source.numpy(), target.numpy(), strict=True):
        np.testing.assert_allclose(row, expected(kind, COUNTS, p_s.astype(float), p_t.astype(float)), rtol=1e-4)
    torch.testing.assert_close(found[:, ~MAPPED_TARGET], target[:, ~MAPPED_TARGET])
    # The probability of source token 2, which is unmapped, does not count.
    without = torch.where(torch.from_numpy(MAPPED_SOURCE), source, 0.0)
    torch.testing.assert_close(distributions(projection(COUNTS), kind)(without, target), found)


@pytest.mark.parametrize("kind", ["static", "informed"])
def test_several_donors_in_one_product(scores, kind):
    target = scores[1].softmax(-1)
    donors = torch.randn(2, 3, 4).softmax(-1)
    method = distributions(projection(COUNTS), kind)
    together = method(donors, target)
    assert together.shape == (2, 3, 5)
    for found, donor in zip(together, donors, strict=True):
        torch.testing.assert_close(found, method(donor, target))


@pytest.mark.parametrize("kind", ["static", "informed"])
def test_the_identity_gives_the_donors_distribution(kind):
    source, target = torch.randn(2, 6, 30).softmax(-1)
    torch.testing.assert_close(distributions(Projection.identity(30), kind)(source, target), source)


def test_the_identity_projects_a_change_to_itself():
    delta, target = torch.randn(6, 30), torch.randn(6, 30).softmax(-1)
    assert torch.equal(method_of(Projection.identity(30), "linear")(delta, target), delta)
    torch.testing.assert_close(
        method_of(Projection.identity(30), "exponential")(delta, target), delta, atol=1e-5, rtol=1e-5
    )


def test_a_base_that_gives_the_donors_tokens_next_to_nothing_leaves_a_distribution():
    target = torch.tensor([[-80.0, -70.0, -60.0, 90.0, 0.0]]).softmax(-1)
    source = torch.tensor([[50.0, 0.0, 0.0, -50.0]]).softmax(-1)
    assert method_of(projection(COUNTS), "informed")(source, target).isfinite().all()
    assert distributions(projection(COUNTS), "informed")(source, target).sum() <= 1 + 1e-5


@st.composite
def problems(draw):
    t, s = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    counts = np.array(draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 3.0, 1e-6]), min_size=t * s, max_size=t * s)))
    counts = counts.reshape(t, s)
    counts[0, 0] = 1.0
    logits = st.floats(-20, 20, width=32)
    donor = draw(st.lists(logits, min_size=s, max_size=s))
    base = draw(st.lists(logits, min_size=t, max_size=t))
    return counts, torch.tensor([donor]), torch.tensor([base])


@given(problem=problems(), kind=st.sampled_from(["static", "informed"]))
@settings(max_examples=examples(150))
def test_what_is_projected_is_a_distribution(problem, kind):
    counts, donor, base = problem
    found = distributions(projection(counts), kind)(donor.softmax(-1), base.softmax(-1))
    assert found.isfinite().all()
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(1), atol=1e-4, rtol=1e-4)


@given(problem=problems(), kind=st.sampled_from(["linear", "exponential"]), constant=st.floats(-50, 50, width=32))
@settings(max_examples=examples(150))
def test_a_constant_added_to_the_change_changes_no_probability(problem, kind, constant):
    counts, delta, base = problem
    change = method_of(projection(counts), kind)
    found, moved = (base + change(delta + added, base.softmax(-1)) for added in (0.0, constant))
    torch.testing.assert_close(moved.softmax(-1), found.softmax(-1), atol=1e-4, rtol=1e-3)


@given(problem=problems(), kind=st.sampled_from(["linear", "exponential"]))
@settings(max_examples=examples(150))
def test_a_change_keeps_the_mass_of_the_mapped_tokens(problem, kind):
    counts, delta, base = problem
    p, mapped = base.softmax(-1), torch.from_numpy(counts.sum(1) > 0)
    change = method_of(projection(counts), kind)(delta, p)
    assert (change[:, ~mapped] == 0).all()
    if not mapped.all():
        torch.testing.assert_close((p * change.exp())[:, mapped].sum(-1), p[:, mapped].sum(-1), atol=1e-5, rtol=1e-3)


@given(problem=problems(), kind=st.sampled_from(["linear", "exponential"]))
@settings(max_examples=examples(150))
def test_projected_changes_differ_no_more_than_the_source_tokens_changes(problem, kind):
    counts, delta, base = problem
    mapped, mapped_source = torch.from_numpy(counts.sum(1) > 0), torch.from_numpy(counts.sum(0) > 0)
    change, source_scores = (
        method_of(projection(counts), kind)(delta, base.softmax(-1))[:, mapped],
        delta[:, mapped_source],
    )
    assert change.max() - change.min() <= source_scores.max() - source_scores.min() + 1e-3


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    often=st.floats(0, 0.4),
    n=st.integers(1, 20),
    seed=st.integers(0),
)
@example(rows=40, columns=40, often=0.0, n=2, seed=0)
@settings(max_examples=examples(60))
def test_a_product_of_either_form_is_the_dense_one(rows, columns, often, n, seed):
    draw = np.random.default_rng(seed)
    dense = np.where(draw.random((rows, columns)) < often, draw.random((rows, columns)), 0)
    wide = np.zeros((3 * rows, columns))  # most entries alone: one gather and the few others
    wide[np.arange(3 * rows), draw.integers(0, columns, 3 * rows)] = draw.random(3 * rows)
    wide = np.concatenate([wide, np.zeros((1, columns)), dense[:1]])
    for matrix in (dense, wide, wide.T):
        values = draw.random((2, n, matrix.shape[1])).astype("float32")
        one, products = SparseMatrix(sp.csr_array(matrix.astype("float32"))), values.astype(float) @ matrix.T
        np.testing.assert_allclose(one(torch.from_numpy(values)), products, rtol=1e-4, atol=1e-5)
        logs = np.log(products, where=(matrix != 0).any(1), out=np.zeros_like(products))
        np.testing.assert_allclose(one.logs(torch.from_numpy(values)), logs, rtol=1e-4, atol=1e-4)


def test_the_forms_are_chosen_by_how_many_entries_are_alone():
    one = projection(np.eye(6)[[0, 0, 1, 1, 2]])
    full = projection(np.ones((4, 4)))
    assert projection(np.eye(6)[[0, 0, 1, 2, 3]]).rows.gathers
    assert [one.rows.gathers, one.rows.scatters] == [True, False]
    assert [one.rows_transposed.gathers, one.rows_transposed.scatters] == [False, True]
    assert [full.rows.gathers, full.rows.scatters] == [False, False]


@pytest.mark.quick(2)
@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("counts", [COUNTS, np.eye(9)[np.arange(30) % 9], np.eye(30)[:9]])
def test_every_method_compiles_without_a_break_whatever_the_batch(n, counts):
    one = projection(counts)
    source, target = torch.randn(n, counts.shape[1]), torch.randn(n, counts.shape[0]).softmax(-1)
    donors = torch.stack([source, -source]).softmax(-1)
    torch._dynamo.reset()
    for method, source_scores in (
        (method_of(one, "linear"), source),
        (method_of(one, "exponential"), source),
        (method_of(one, "static"), donors),
        (method_of(one, "informed"), donors),
    ):
        compiled = torch.compile(method, fullgraph=True, backend="eager", dynamic=True)
        assert torch.equal(compiled(source_scores, target), method(source_scores, target))


def test_one_compilation_serves_every_batch_above_one():
    one = projection(COUNTS)
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(method_of(one, "informed"), fullgraph=True, backend=counter, dynamic=True)
    for n in (2, 5, 64):
        source, target = torch.randn(n, 4).softmax(-1), torch.randn(n, 5).softmax(-1)
        assert torch.equal(compiled(source, target), method_of(one, "informed")(source, target))
    assert counter.frame_count == 1


def test_the_operator_is_as_registered_for_compilers():
    matrix = projection(COUNTS).rows_transposed.csr
    for n in (1, 3):
        arguments = (matrix.pointers, matrix.indices, matrix.weights, torch.randn(n, 5))
        torch.library.opcheck(_csr_product, arguments)


def test_scores_are_left_as_they_were(scores):
    delta, target = scores[0], scores[1].softmax(-1)
    one = projection(COUNTS)
    given_delta, given_target, source = delta.clone(), target.clone(), delta.softmax(-1)
    given_source = source.clone()
    for method, source_scores in (
        (method_of(one, "linear"), delta),
        (method_of(one, "exponential"), delta),
        (method_of(one, "static"), source),
        (method_of(one, "informed"), source),
    ):
        method(source_scores, target)
    for found, before in ((delta, given_delta), (target, given_target), (source, given_source)):
        assert torch.equal(found, before)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("counts", [COUNTS, np.eye(9)[np.arange(30) % 9]])
def test_every_method_works_where_gradients_are_recorded(n, counts):
    one = projection(counts)
    source, target = torch.randn(n, counts.shape[1]).softmax(-1), torch.randn(n, counts.shape[0]).softmax(-1)
    for method in (
        method_of(one, "linear"),
        method_of(one, "exponential"),
        method_of(one, "static"),
        method_of(one, "informed"),
    ):
        recorded = method(source.clone().requires_grad_(), target.clone().requires_grad_())
        assert torch.equal(recorded, method(source, target))
