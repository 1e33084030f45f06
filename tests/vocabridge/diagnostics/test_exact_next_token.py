"""The exact next target token is what trying all continuations by the source's tokens gives."""

from __future__ import annotations

import numpy as np
import pytest

from vocabridge.alignment import TokenKind
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.diagnostics.exact_next_token import NextToken, Truth

TEXT = "it's the then a\n\nb  aab all'll 12"
PAIRS = [("byte-level", "byte fallback"), ("byte fallback", "byte-level"), ("unigram", "byte-level")]


def found(source, target, text: str, ids: list[int], **settings) -> NextToken:
    model = ByteLM.of(source.loaded, tolerance=settings.pop("unread", 0))
    return Truth(model, target.vocabulary, **settings).next(model.text([text.encode()]), text.encode(), ids)


def starts(vocabulary, text: str) -> list[tuple[str, list[int]]]:
    """The text in front of each token but the first, and its tokens."""
    encoding = vocabulary.encode(text)
    return [
        (text.encode()[:at].decode(), encoding.ids.tolist()[:i]) for i, at in enumerate(encoding.starts.tolist()) if i
    ]


def by_trying(source, target, text: str, ids: list[int], depth: int) -> tuple[np.ndarray, float]:
    """The mass of all covers that go so many tokens beyond the text, by the next target token as their bytes stand.

    Whatever comes after, the mass that a longer text could give to others is not known; so also what is left without
    an answer, as the text would end inside of a character.
    """
    token_bytes, data = source.vocabulary.token_bytes, text.encode()
    symbols = np.flatnonzero(source.vocabulary.kinds == TokenKind.CONTROL)
    p, unknown = np.zeros(target.vocabulary.size), 0.0
    inner, leaves = [((), b"", 1.0)], []
    while inner:  # all covers that end within the text, and one token beyond
        cover, spelled, mass = inner.pop()
        said = source.p(cover)
        candidates = [
            ((*cover, i), spelled + more, mass * said[i])
            for i, more in enumerate(token_bytes)
            if more and (data.startswith(spelled + more) or (spelled + more).startswith(data))
        ]
        for valid, one in zip(source.valid([c for c, _, _ in candidates]), candidates, strict=True):
            if valid:
                (leaves if len(one[1]) > len(data) else inner).append(one)
        if spelled == data and list(cover) == source.vocabulary.encode(text).ids.tolist():
            ends = target.vocabulary.encode(text).ids.tolist() == ids
            p[1] += ends * mass * said[symbols[symbols == 1]].sum()
    for _ in range(depth):
        longer = []
        for cover, spelled, mass in leaves:
            candidates = [(*cover, i) for i, more in enumerate(token_bytes) if more]
            valid = np.array(source.valid(candidates))
            said = source.p(cover)
            chances = np.array([said[c[-1]] for c in candidates]) * valid
            own = list(cover) == _encoded(source.vocabulary, spelled)
            ends = said[symbols].sum() * own
            total = chances.sum() + ends
            if token := _next(target.vocabulary, spelled, ids):
                p[token[0]] += mass * ends / total
            for candidate, chance in zip(candidates, chances, strict=True):
                if chance:
                    longer.append((candidate, spelled + token_bytes[candidate[-1]], mass * chance / total))
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
def test_it_is_what_trying_all_tokens_gives_up_to_what_is_open(worlds, source, target, depth):
    for text, ids in starts(worlds[target].vocabulary, "the a\nb"):
        exact = found(worlds[source], worlds[target], text, ids, tolerance=0.02, rounds=12)
        expected, unknown = by_trying(worlds[source], worlds[target], text, ids, depth)
        # So many tokens beyond the first are not the end: what stays open there is known from reading on as far.
        shallow = found(worlds[source], worlds[target], text, ids, tolerance=1e-6, rounds=depth)
        apart = np.abs(exact.p[0] - expected).sum() / 2
        assert apart <= exact.open + exact.lost + shallow.open + unknown + 1e-5


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_with_one_tokenizer_it_is_the_models_own_softmax_over_the_tokens_that_may_follow(worlds, kind):
    world = worlds[kind]
    for text, ids in starts(world.vocabulary, TEXT)[1::4]:
        exact = found(world, world, text, ids, tolerance=0.02, rounds=12)
        expected = world.p(tuple(ids)).copy()
        spelled = [i for i, data in enumerate(world.vocabulary.token_bytes) if data]
        expected[spelled] *= world.valid([(*ids, i) for i in spelled])
        expected[[i for i in range(len(expected)) if i not in spelled and i != 1]] = (
            0  # of control tokens the end means the same
        )
        if world.vocabulary.encode(text).ids.tolist() != ids:
            expected[1] = 0
        expected /= expected.sum()
        assert np.abs(exact.p[0] - expected).sum() / 2 <= exact.open + exact.lost + 1e-5
        assert exact.open < 0.5


@pytest.mark.quick(1)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_what_is_open_and_lost_bounds_what_reading_on_changes(worlds, source, target):
    for text, ids in starts(worlds[target].vocabulary, TEXT)[1::5]:
        exact = found(worlds[source], worlds[target], text, ids, tolerance=0.02, rounds=12)
        assert exact.p.sum() == pytest.approx(1)
        for rounds in (0, 2):
            rough = found(worlds[source], worlds[target], text, ids, tolerance=0.2, rounds=rounds, unread=1e-3)
            bound = rough.open + rough.lost + exact.open + exact.lost
            assert np.abs(exact.p - rough.p).sum() / 2 <= bound + 1e-5
            assert rough.open >= exact.open - 0.02


def test_a_text_that_the_target_never_cuts_so_has_no_truth(worlds):
    world = worlds["byte-level"]
    ids = [world.vocabulary.canonical[data] for data in (b"'", b"s")]  # it is one token
    assert not found(world, world, "'s", ids).p.any()
