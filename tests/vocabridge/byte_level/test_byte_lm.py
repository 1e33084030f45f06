"""The distribution over the next byte is what trying all sequences of tokens gives."""

from __future__ import annotations

import numpy as np
import pytest

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.models.loading import LoadedModel

TEXTS = ["aab a\n\nb", "a   é", "it'll 12's", "🙂the then", " \n\n  \ta", "abab the 1231"]


@pytest.mark.quick(5)
@pytest.mark.parametrize("text", TEXTS)
def test_every_prefix_of_a_text_has_the_distribution_that_trying_all_covers_gives(world, text):
    model = ByteLM.of(world.loaded, tolerance=0)
    data, here = text.encode(), model.text()
    for at in range(len(data) + 1):
        found, expected = here.next(), world.next_byte(data[:at])
        np.testing.assert_allclose(found.p[0], expected, atol=1e-5, err_msg=f"{data[:at]!r}")
        np.testing.assert_allclose(found.p[0].sum(), expected.sum(), atol=1e-9)
        assert found.lost == 0
        here = here.after(data[at : at + 1])


@pytest.mark.parametrize("text", ["the then there  aab", "it's all'll a\n b", "ab🙂é"])
def test_a_text_read_at_once_says_what_it_says_when_it_comes_byte_by_byte(world, text):
    model = ByteLM.of(world.loaded, tolerance=0)
    here = model.text()
    for at in range(len(text.encode())):
        here = here.after(text.encode()[at : at + 1])
        here.next()
    np.testing.assert_allclose(model.text([text.encode()]).next().p, here.next().p, atol=1e-5)


def test_what_is_lost_bounds_what_a_tolerance_or_a_beam_changes(world):
    data = b"the then a\n\nb"
    for settings in ({"tolerance": 1e-2}, {"tolerance": 0.2}, {"beam": 1}):
        exact, here = ByteLM.of(world.loaded, tolerance=0).text(), ByteLM.of(world.loaded, **settings).text()
        for at in range(len(data)):
            exact, here = exact.after(data[at : at + 1]), here.after(data[at : at + 1])
            found = here.next()
            assert abs(found.p - exact.next().p).sum() <= 2.5 * found.lost + 1e-4


def test_a_control_token_ends_a_text_for_good(world):
    model = ByteLM.of(world.loaded, tolerance=0)
    ids = world.vocabulary.encode("the").ids.tolist()
    expected = world.p((*ids, 1))
    found = model.text([b"the", 1]).next().p[0]
    symbols = expected[model.symbols]
    np.testing.assert_allclose(found[256:] / found[256:].sum(), symbols / symbols.sum(), atol=1e-5)


def test_bytes_that_are_no_text_and_what_a_tokenizer_cannot_spell_leave_no_cover(worlds):
    for world, data in ((worlds["byte-level"], b"a\xffb c"), (worlds["unigram"], "a東".encode())):
        found = ByteLM.of(world.loaded).text([data]).next()
        assert not found.p.any()


def test_a_tokenizer_that_loses_text_is_refused_with_the_reason(vocabularies):
    for kind, reason in (("wordpiece", "lower-cases"), ("unigram", "compatibility characters")):
        with pytest.raises(VocabridgeError, match=reason):
            ByteLM.of(_without_model(vocabularies[kind]))


def _without_model(vocabulary: Vocabulary) -> LoadedModel:
    return LoadedModel("model", "", None, vocabulary)
