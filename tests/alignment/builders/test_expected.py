"""EM over a model's distributions: the objective never falls, and the result equals that of plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Combined, Corpus, VocabridgeError, Vocabulary
from vocabridge.alignment.builders.expected import Expected, FittedColumns, Observations, fit_columns, observe
from vocabridge.alignment.distributions import Distributions


def observations(rng: np.random.Generator, truth: np.ndarray, n: int, k: int, alpha: float = 0.3) -> Observations:
    """Draw distributions over all source tokens, a source token from each and its target token; keep the largest k."""
    s = truth.shape[1]
    p = rng.dirichlet(np.full(s, alpha), n)
    w = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    y = (truth[:, w].cumsum(axis=0) > rng.random(n)).argmax(axis=0)
    ids = np.argsort(-p, axis=1)[:, :k]
    return Observations(y, ids.astype(np.int32), np.take_along_axis(p, ids, 1).astype(np.float32))


def columns(rng: np.random.Generator, t: int, s: int, density: float = 0.5) -> np.ndarray:
    """Draw a sparse column-stochastic matrix."""
    matrix = rng.random((t, s)) * (rng.random((t, s)) < density)
    matrix[rng.integers(t, size=s), np.arange(s)] += 0.5
    return matrix / matrix.sum(axis=0)


def by_loops(start: np.ndarray, observed: Observations, strength: float, n: int) -> tuple[np.ndarray, list[float]]:
    """Compute the EM of the module's equations in plain loops."""
    t, s = start.shape
    prior = start / start.sum(axis=0)
    u = start.sum(axis=1) / start.sum()
    c, objective = prior, []
    for _ in range(n + 1):
        expected, total = np.zeros((t, s)), 0.0
        for y, ids, p in zip(observed.targets, observed.ids, observed.probabilities, strict=True):
            terms = {int(w): c[y, w] * float(q) for w, q in zip(ids, p, strict=True) if start[y, w] > 0 and q > 0}
            if terms:
                z = sum(terms.values()) + max(0.0, 1 - float(p.astype(np.float64).sum())) * u[y]
                total += math.log(z)
                for w, term in terms.items():
                    expected[y, w] += term / z
        for y, w in zip(*np.nonzero(start), strict=True):
            total += strength * start[y, w] * math.log(c[y, w] / prior[y, w])
        objective.append(total)
        last, c = c, expected + strength * start
        c = c / c.sum(axis=0)
    return last, objective


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), strength=st.sampled_from([0.01, 1.0, 30.0]))
def test_em_equals_plain_loops_and_the_objective_never_falls(seed, k, strength):
    rng = np.random.default_rng(seed)
    truth = columns(rng, 7, 6)
    observed = observations(rng, truth, 40, k)
    start = (columns(rng, 7, 6) + (truth > 0)) * rng.uniform(0.1, 5, 6)
    fit = fit_columns(sp.csr_array(start), observed, strength, 8)
    n = len(fit.objective) - 1
    expected, objective = by_loops(start, observed, strength, n)
    np.testing.assert_allclose(fit.weights.toarray(), expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(fit.objective, objective, rtol=1e-5, atol=1e-5)
    assert (np.diff(fit.objective) >= -1e-9 * np.abs(fit.objective[:-1])).all()
    np.testing.assert_allclose(fit.weights.sum(axis=0), 1)


def test_the_true_columns_are_found_from_a_start_that_is_wrong():
    rng = np.random.default_rng(1)
    truth = columns(rng, 9, 8)
    observed = observations(rng, truth, 20_000, 8)
    wrong = np.where(truth > 0, rng.random(truth.shape) ** 3 + 0.01, 0) * 100
    fit = fit_columns(sp.csr_array(wrong), observed, 0.01, 200)
    before = np.abs(wrong / wrong.sum(axis=0) - truth).sum(axis=0).mean()
    after = np.abs(fit.weights.toarray() - truth).sum(axis=0).mean()
    assert before > 0.5
    assert after < 0.1


def test_mass_outside_the_largest_k_is_not_attributed_to_the_known_tokens():
    # Source token 0 always becomes target token 0. The model gives half its mass to source token 0 and half to tokens
    # that the file lacks, which became the frequent target token 1. Ignoring the latter would make C[1, 0] a half.
    y = np.array([0, 1] * 500)
    observed = Observations(y, np.zeros((1000, 1), np.int32), np.full((1000, 1), 0.5, np.float32))
    start = sp.csr_array(np.array([[1.0, 0.0], [0.05, 200.0]]))
    fit = fit_columns(start, observed, 1.0, 50)
    assert fit.weights.toarray()[1, 0] < 0.1


def test_positions_without_an_entry_in_the_pattern_change_nothing():
    start = sp.csr_array(np.array([[3.0, 0.0], [1.0, 2.0]]))
    observed = Observations(np.array([0, 0]), np.array([[1], [1]], np.int32), np.array([[0.9], [0.0]], np.float32))
    fit = fit_columns(start, observed, 5.0, 5)
    np.testing.assert_allclose(fit.weights.toarray(), start.toarray() / start.toarray().sum(axis=0))
    assert (fit.counts.toarray() == 5 * start.toarray()).all()


def test_a_strong_prior_keeps_the_start():
    rng = np.random.default_rng(2)
    truth = columns(rng, 5, 5)
    start = columns(rng, 5, 5) + (truth > 0)
    fit: FittedColumns = fit_columns(sp.csr_array(start), observations(rng, truth, 50, 5), 1e9, 5)
    np.testing.assert_allclose(fit.weights.toarray(), start / start.sum(axis=0), rtol=1e-5)


def certain(source: Vocabulary, target: Vocabulary, texts: list[str]) -> Distributions:
    """Return distributions of a model that gives the actual next token probability 1."""
    encodings = [source.encode(text) for text in texts]
    kept = [e.starts >= 0 for e in encodings]
    return Distributions.of(
        texts,
        [e.starts[keep] for e, keep in zip(encodings, kept, strict=True)],
        [e.ids[keep, None] for e, keep in zip(encodings, kept, strict=True)],
        [np.ones((int(keep.sum()), 1)) for keep in kept],
        source=source,
        model="parrot",
    )


@pytest.fixture(scope="module")
def two_vocabularies(vocabularies: dict[str, Vocabulary]) -> tuple[Vocabulary, Vocabulary]:
    return vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]


def test_the_target_tokens_that_start_at_a_known_position_are_observed(two_vocabularies, text):
    source, target = two_vocabularies
    texts = [text, "", "The quick brown fox. 48 + 24", text[:200]]
    distributions = certain(source, target, texts)
    observed = observe(distributions, target)
    expected = []
    for piece, known in distributions.texts():
        start = len("".join(texts[: texts.index(piece)]).encode()) if piece else 0
        at = {int(o) - start: i for i, o in enumerate(distributions.offsets[known], known.start)}
        encoding = target.encode(piece)
        for y, b in zip(encoding.ids.tolist(), encoding.starts.tolist(), strict=True):
            if b in at and target.token_bytes[y] is not None:
                expected.append((y, int(distributions.ids[at[b], 0])))
    assert list(zip(observed.targets.tolist(), observed.ids[:, 0].tolist(), strict=True)) == expected
    assert len(expected) > 100


def test_a_model_that_is_always_right_gives_the_columns_of_hard_counts(two_vocabularies, text):
    source, target = two_vocabularies
    distributions = certain(source, target, [text])
    columns = Expected(distributions, strength=1e-6).build(source, target).column_weights.toarray()
    observed = observe(distributions, target)
    hard = np.zeros(columns.shape)
    np.add.at(hard, (observed.targets, observed.ids[:, 0]), 1.0)
    seen = hard.sum(axis=0) > 0
    assert seen.sum() > 20
    np.testing.assert_allclose(columns[:, seen], (hard / hard.sum(axis=0).clip(1))[:, seen], atol=1e-4)


def test_every_token_keeps_a_partner_and_rows_hold_the_frequencies(pair, text):
    source, target = pair
    alignment = Expected(certain(source, target, [text])).build(source, target)
    assert (np.diff(alignment.counts.indptr)[target.usable] > 0).all()
    assert np.isin(source.usable, alignment.counts.indices).all()


def test_a_corpus_gives_pattern_and_prior_and_is_recorded(two_vocabularies, text, tmp_path):
    source, target = two_vocabularies
    (tmp_path / "t.txt").write_text("naïve café " * 50 + text, encoding="utf-8")
    corpus = Corpus.open([tmp_path / "t.txt"])
    distributions = certain(source, target, ["The quick brown fox"])
    alignment = Expected(distributions).build(source, target, corpus)
    default = Combined().build(source, target, corpus)
    assert alignment.corpus == corpus.card
    assert alignment.parameters == {"distributions": distributions.digest, "strength": 1.0, "iterations": 20}
    assert (alignment.counts.indices == default.counts.indices).all()


def test_progress_ends_at_its_total(two_vocabularies, text):
    reported: list[tuple[int, int]] = []
    builder = Expected(certain(*two_vocabularies, [text]))
    builder.build(*two_vocabularies, None, lambda done, total: reported.append((done, total)))
    assert reported[-1] == (20, 20)


def test_other_vocabularies_and_a_prior_of_strength_0_are_refused(two_vocabularies, text):
    source, target = two_vocabularies
    distributions = certain(source, target, [text])
    with pytest.raises(VocabridgeError, match="another vocabulary"):
        Expected(distributions).build(target, source)
    with pytest.raises(VocabridgeError, match="give a finite number above 0"):
        Expected(distributions, strength=0.0)
