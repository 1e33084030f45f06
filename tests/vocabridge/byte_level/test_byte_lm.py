"""The distribution over the next byte is the one that an enumeration of all sequences of tokens gives."""

from __future__ import annotations

import numpy as np
import pytest

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.models.loading import LoadedModel

TEXTS = ["aab a\n\nb", "a   é", "it'll 12's", "🙂the then", " \n\n  \ta", "abab the 1231"]


@pytest.mark.quick(5)
@pytest.mark.parametrize("text", TEXTS)
def test_every_prefix_of_a_text_has_the_distribution_that_enumerating_all_covers_gives(world, text):
    model = ByteLM.of(world.loaded, tolerance=0)
    data, state = text.encode(), model.text()
    for size in range(len(data) + 1):
        distribution, expected = state.next(), world.next_byte(data[:size])
        np.testing.assert_allclose(distribution.p[0], expected, atol=1e-5, err_msg=f"{data[:size]!r}")
        np.testing.assert_allclose(distribution.p[0].sum(), expected.sum(), atol=1e-9)
        assert distribution.lost == 0
        state = state.after(data[size : size + 1])


@pytest.mark.parametrize("text", ["the then there  aab", "it's all'll a\n b", "ab🙂é"])
def test_a_text_has_the_same_distribution_whether_it_comes_at_once_or_byte_by_byte(world, text):
    model = ByteLM.of(world.loaded, tolerance=0)
    state = model.text()
    for byte in text.encode():
        state = state.after(bytes([byte]))
        state.next()
    np.testing.assert_allclose(model.text([text.encode()]).next().p, state.next().p, atol=1e-5)


@pytest.mark.parametrize("tolerance", [1e-2, 0.2])
def test_the_lost_share_bounds_what_a_tolerance_changes(world, tolerance):
    exact, rough = ByteLM.of(world.loaded, tolerance=0).text(), ByteLM.of(world.loaded, tolerance=tolerance).text()
    for byte in b"the then a\n\nb":
        exact, rough = exact.after(bytes([byte])), rough.after(bytes([byte]))
        distribution = rough.next()
        assert abs(distribution.p - exact.next().p).sum() <= 2.5 * distribution.lost + 1e-4


def test_a_control_token_ends_a_text_for_good(world):
    model = ByteLM.of(world.loaded, tolerance=0)
    ids = world.vocabulary.encode("the").ids.tolist()
    expected = world.p((*ids, 1))[model.control_ids]
    p_control = model.text([b"the", 1]).next().p[0, 256:]
    np.testing.assert_allclose(p_control / p_control.sum(), expected / expected.sum(), atol=1e-5)


def test_bytes_that_are_no_text_or_that_the_tokenizer_cannot_spell_leave_no_cover(worlds):
    for world, data in ((worlds["byte-level"], b"a\xffb c"), (worlds["unigram"], "a東".encode())):
        assert not ByteLM.of(world.loaded).text([data]).next().p.any()


def test_a_tolerance_that_is_no_share_is_refused(world):
    with pytest.raises(VocabridgeError, match=r"the tolerance 1.0 is out of range; give one from 0 to below 1"):
        ByteLM.of(world.loaded).set_tolerance(1.0)


def test_a_tokenizer_that_loses_text_is_refused_with_the_reason(vocabularies):
    for kind, reason in (("wordpiece", "lower-cases"), ("unigram", "compatibility characters")):
        with pytest.raises(VocabridgeError, match=reason):
            ByteLM.of(_without_model(vocabularies[kind]))


def _without_model(vocabulary: Vocabulary) -> LoadedModel:
    return LoadedModel("model", "", None, vocabulary)
