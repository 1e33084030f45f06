"""The four carries against dense formulas on small matrices, and what holds for every matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Alignment, VocabularyCard
from vocabridge.projection import Projection

# 5 target tokens, 4 source tokens; nobody speaks for target 3, source 2 speaks for nobody.
COUNTS = np.array(
    [[4.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
)
SPOKEN_FOR = COUNTS.sum(1) > 0
SPEAKING = COUNTS.sum(0) > 0


def projection(counts: np.ndarray) -> Projection:
    cards = [VocabularyCard(side, size, size, side, {}) for side, size in zip("ts", counts.shape, strict=True)]
    matrix = sp.csr_array(counts.astype(np.float32))
    return Projection.of(Alignment(matrix, source=cards[1], target=cards[0], method="test", parameters={}))


def normalised(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(counts / counts.sum(1, keepdims=True)), np.nan_to_num(counts / counts.sum(0))


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected(kind: str, counts: np.ndarray, p_s: np.ndarray, p_t: np.ndarray) -> np.ndarray:
    """Row by row in float64, for a distribution p_s (|S|,) and p_t (|T|,)."""
    R, C = normalised(counts)
    speaking, spoken_for = counts.sum(0) > 0, counts.sum(1) > 0
    p_s = p_s * speaking / (p_s * speaking).sum()
    q = p_t * (R @ np.divide(p_s, R.T @ p_t, out=np.zeros_like(p_s), where=speaking))
    q = C @ p_s if kind == "static" else q
    return np.where(spoken_for, q / q.sum() * p_t[spoken_for].sum(), p_t)


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4) * 2, torch.randn(3, 5) * 2


def test_linear(scores):
    delta, _ = scores
    found = projection(COUNTS).linear(delta)
    np.testing.assert_allclose(found, delta.numpy() @ normalised(COUNTS)[0].T, rtol=1e-5)
    assert (found[:, ~SPOKEN_FOR] == 0).all()


def test_exponential(scores):
    delta, _ = scores
    found = projection(COUNTS).exponential(delta).numpy()
    with np.errstate(divide="ignore"):
        log = np.log(np.exp(delta.numpy()) @ normalised(COUNTS)[0].T)
    np.testing.assert_allclose(found[:, SPOKEN_FOR], log[:, SPOKEN_FOR], rtol=1e-4, atol=1e-6)
    assert (found[:, ~SPOKEN_FOR] == 0).all()


def test_exponential_is_linear_where_one_token_speaks(scores):
    delta, _ = scores
    one = projection(COUNTS)
    single = (COUNTS > 0).sum(1) == 1
    assert single.sum() == 2
    torch.testing.assert_close(one.exponential(delta)[:, single], one.linear(delta)[:, single])


def test_exponential_of_large_changes_is_finite():
    delta = torch.tensor([[90.0, -90.0, 0.0, 500.0]])
    assert projection(COUNTS).exponential(delta).isfinite().all()


@pytest.mark.parametrize("kind", ["static", "informed"])
def test_probabilities(scores, kind):
    source, target = (logits.softmax(-1) for logits in scores)
    found = getattr(projection(COUNTS), kind)(source, target)
    for row, p_s, p_t in zip(found, source.numpy(), target.numpy(), strict=True):
        np.testing.assert_allclose(row, expected(kind, COUNTS, p_s.astype(float), p_t.astype(float)), rtol=1e-4)
    torch.testing.assert_close(found[:, ~SPOKEN_FOR], target[:, ~SPOKEN_FOR])
    # What source 2, which speaks for nobody, has is nobody's.
    without = torch.where(torch.from_numpy(SPEAKING), source, 0.0)
    torch.testing.assert_close(getattr(projection(COUNTS), kind)(without, target), found)


@pytest.mark.parametrize("kind", ["static", "informed"])
def test_several_donors_in_one_product(scores, kind):
    target = scores[1].softmax(-1)
    donors = torch.randn(2, 3, 4).softmax(-1)
    carry = getattr(projection(COUNTS), kind)
    together = carry(donors, target)
    assert together.shape == (2, 3, 5)
    for found, donor in zip(together, donors, strict=True):
        torch.testing.assert_close(found, carry(donor, target))


@pytest.mark.parametrize("kind", ["static", "informed"])
def test_the_identity_gives_the_donors_distribution(kind):
    source, target = torch.randn(2, 6, 30).softmax(-1)
    torch.testing.assert_close(getattr(Projection.identity(30), kind)(source, target), source)


def test_the_identity_carries_a_change_as_it_is():
    delta = torch.randn(6, 30)
    assert torch.equal(Projection.identity(30).linear(delta), delta)
    torch.testing.assert_close(Projection.identity(30).exponential(delta), delta, atol=1e-5, rtol=1e-5)


def test_a_base_that_gives_the_donors_tokens_next_to_nothing_leaves_a_distribution():
    target = torch.tensor([[-80.0, -70.0, -60.0, 90.0, 0.0]]).softmax(-1)
    source = torch.tensor([[50.0, 0.0, 0.0, -50.0]]).softmax(-1)
    found = projection(COUNTS).informed(source, target)
    assert found.isfinite().all()
    assert (found >= 0).all()


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
@settings(max_examples=150, deadline=None)
def test_what_is_carried_is_a_distribution(problem, kind):
    counts, donor, base = problem
    found = getattr(projection(counts), kind)(donor.softmax(-1), base.softmax(-1))
    assert found.isfinite().all()
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(1), atol=1e-4, rtol=1e-4)


@given(problem=problems())
@settings(max_examples=100, deadline=None)
def test_changes_lie_between_those_of_the_tokens_that_speak(problem):
    counts, donor, _ = problem
    both = projection(counts)
    for found in (both.linear(donor)[0].numpy(), both.exponential(donor)[0].numpy()):
        for value, row in zip(found, counts, strict=True):
            said = donor[0].numpy()[row > 0]
            if len(said):
                assert said.min() - 1e-3 <= value <= said.max() + 1e-3
            else:
                assert value == 0
