"""The exact distribution of the next target token is the one that an enumeration of the source's tokens gives."""

from __future__ import annotations

import numpy as np
import pytest

from vocabridge.alignment import TokenKind
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.diagnostics.exact_next_token import ExactPredictor, NextTokenDistribution

TEXT = "it's the then a\n\nb  aab all'll 12"
PAIRS = [("byte-level", "byte fallback"), ("byte fallback", "byte-level"), ("unigram", "byte-level")]


def exact_next_token(source, target, text: str, ids: list[int], *, lost=0.0, **settings) -> NextTokenDistribution:
    model = ByteLM.of(source.loaded, tolerance=lost)
    predictor = ExactPredictor(model, target.vocabulary, **settings)
    return predictor.predict(model.text([text.encode()]), text.encode(), ids)


def prefixes(vocabulary, text: str) -> list[tuple[str, list[int]]]:
    """Return the text before each token but the first, and its tokens."""
    encoding = vocabulary.encode(text)
    return [
        (text.encode()[:start].decode(), encoding.ids.tolist()[:i])
        for i, start in enumerate(encoding.starts.tolist())
        if i
    ]


def by_enumeration(source, target, text: str, ids: list[int], depth: int) -> tuple[np.ndarray, float]:
    """Sum over all covers that reach `depth` + 1 source tokens beyond the text.

    Returns:
        The distribution of the next target token, (|T|,), by the bytes of each cover alone: what follows may move mass
        to other tokens. And the share of covers that count for no token, because they end inside a character.
    """
    token_bytes, data = source.vocabulary.token_bytes, text.encode()
    control_ids = np.flatnonzero(source.vocabulary.kinds == TokenKind.CONTROL)
    p, unknown = np.zeros(target.vocabulary.size), 0.0
    inner, leaves = [((), b"", 1.0)], []
    while inner:  # covers that end within the text; each is extended by one token
        cover, spelled, mass = inner.pop()
        p_next = source.p(cover)
        candidates = [
            ((*cover, i), spelled + token, mass * p_next[i])
            for i, token in enumerate(token_bytes)
            if token and (data.startswith(spelled + token) or (spelled + token).startswith(data))
        ]
        for valid, candidate in zip(source.valid([c for c, _, _ in candidates]), candidates, strict=True):
            if valid:
                (leaves if len(candidate[1]) > len(data) else inner).append(candidate)
        if spelled == data and list(cover) == source.vocabulary.encode(text).ids.tolist():
            may_end = target.vocabulary.encode(text).ids.tolist() == ids
            p[1] += may_end * mass * p_next[control_ids[control_ids == 1]].sum()
    for _ in range(depth):
        longer = []
        for cover, spelled, mass in leaves:
            candidates = [(*cover, i) for i, token in enumerate(token_bytes) if token]
            valid = np.array(source.valid(candidates))
            p_next = source.p(cover)
            p_tokens = np.array([p_next[candidate[-1]] for candidate in candidates]) * valid
            is_encoding = list(cover) == _encoded(source.vocabulary, spelled)
            p_end = p_next[control_ids].sum() * is_encoding
            total = p_tokens.sum() + p_end
            if token := _next(target.vocabulary, spelled, ids):
                p[token[0]] += mass * p_end / total
            for candidate, p_token in zip(candidates, p_tokens, strict=True):
                if p_token:
                    longer.append((candidate, spelled + token_bytes[candidate[-1]], mass * p_token / total))
        leaves = longer
    for _, spelled, mass in leaves:
        try:
            spelled.decode()
        except UnicodeDecodeError:
            unknown += mass
            continue
        if token := _next(target.vocabulary, spelled, ids):
            p[token[0]] += mass
    return p / p.sum(), unknown / p.sum()


def _encoded(vocabulary, data: bytes) -> list[int]:
    try:
        return vocabulary.encode(data.decode()).ids.tolist()
    except UnicodeDecodeError:
        return []


def _next(vocabulary, data: bytes, ids: list[int]) -> list[int]:
    encoded = _encoded(vocabulary, data)
    return encoded[len(ids) : len(ids) + 1] if encoded[: len(ids)] == ids else []


@pytest.mark.parametrize(
    ("source", "target", "depth"),
    [("unigram", "byte-level", 1), ("unigram", "byte fallback", 1), ("byte-level", "byte fallback", 0)],
)
def test_the_distribution_is_that_of_an_enumeration_up_to_the_open_share(worlds, source, target, depth):
    for text, ids in prefixes(worlds[target].vocabulary, "the a\nb"):
        exact = exact_next_token(worlds[source], worlds[target], text, ids, tolerance=0.02, rounds=12)
        expected, unknown = by_enumeration(worlds[source], worlds[target], text, ids, depth)
        # The enumeration ends after `depth` more tokens; this is the share that is open there.
        shallow = exact_next_token(worlds[source], worlds[target], text, ids, tolerance=1e-6, rounds=depth)
        variation = np.abs(exact.p[0] - expected).sum() / 2
        assert variation <= exact.open + exact.lost + shallow.open + unknown + 1e-5


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_with_one_tokenizer_the_distribution_is_the_models_own_softmax_over_the_tokens_that_may_follow(worlds, kind):
    world = worlds[kind]
    for text, ids in prefixes(world.vocabulary, TEXT)[1::4]:
        exact = exact_next_token(world, world, text, ids, tolerance=0.02, rounds=12)
        expected = world.p(tuple(ids)).copy()
        text_ids = [i for i, data in enumerate(world.vocabulary.token_bytes) if data]
        expected[text_ids] *= world.valid([(*ids, i) for i in text_ids])
        # Of the control tokens, only eos (id 1) has a role that both models share.
        expected[[i for i in range(len(expected)) if i not in text_ids and i != 1]] = 0
        if world.vocabulary.encode(text).ids.tolist() != ids:
            expected[1] = 0
        expected /= expected.sum()
        assert np.abs(exact.p[0] - expected).sum() / 2 <= exact.open + exact.lost + 1e-5
        assert exact.open < 0.5


@pytest.mark.quick(1)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_open_and_lost_shares_bound_what_further_rounds_change(worlds, source, target):
    for text, ids in prefixes(worlds[target].vocabulary, TEXT)[1::5]:
        exact = exact_next_token(worlds[source], worlds[target], text, ids, tolerance=0.02, rounds=12)
        assert exact.p.sum() == pytest.approx(1)
        for rounds in (0, 2):
            rough = exact_next_token(worlds[source], worlds[target], text, ids, tolerance=0.2, rounds=rounds, lost=1e-3)
            bound = rough.open + rough.lost + exact.open + exact.lost
            assert np.abs(exact.p - rough.p).sum() / 2 <= bound + 1e-5
            assert rough.open >= exact.open - 0.02


def test_after_tokens_that_the_target_never_writes_there_is_no_distribution(worlds):
    world = worlds["byte-level"]
    ids = [world.vocabulary.canonical[data] for data in (b"'", b"s")]  # the target writes them as one token
    assert not exact_next_token(world, world, "'s", ids).p.any()
