"""Control tokens are aligned by their roles, in order of precedence; a token may have several roles."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from tokenizers import AddedToken, Tokenizer, models

from vocabridge.alignment import Combined, IdenticalBytes, Retokenize, Vocabulary
from vocabridge.alignment.builders.base import pin_roles

LETTERS = {"a": 0, "b": 1}


def vocabulary(controls: int = 6, **roles: int) -> Vocabulary:
    """Make a vocabulary of two letters, and control tokens from id 2 on whose names do not show their roles."""
    tokenizer = Tokenizer(models.BPE(LETTERS, []))
    tokenizer.add_special_tokens([f"<{chr(97 + i)}>" for i in range(controls)])
    return Vocabulary.from_tokenizer(tokenizer, roles={role.replace("_", " "): i for role, i in roles.items()})


def pairs(source: Vocabulary, target: Vocabulary) -> dict[tuple[int, int], float]:
    """Return (target id, source id) -> count, for the entries of control tokens."""
    counts = IdenticalBytes().build(source, target).counts.tocoo()
    entries = zip(*(c.tolist() for c in counts.coords), counts.data.tolist(), strict=True)
    return {(y, w): n for y, w, n in entries if y >= len(LETTERS) or w >= len(LETTERS)}


def test_exactly_the_shared_roles_are_paired():
    source = vocabulary(eos=2, bos=3, turn_end=4, turn_begin=5, turn_content=6, pad=7)
    target = vocabulary(eos=7, bos=6, turn_end=5, turn_begin=4, pad=2)
    assert pairs(source, target) == {(7, 2): 1, (6, 3): 1, (5, 4): 1, (4, 5): 1, (2, 7): 1}


def test_a_source_token_that_ends_texts_and_turns_is_paired_with_both_end_tokens_of_the_target():
    source = vocabulary(eos=2, turn_end=2)
    target = vocabulary(eos=3, turn_end=4)
    assert pairs(source, target) == {(3, 2): 1, (4, 2): 1}
    alignment = IdenticalBytes().build(source, target)
    assert alignment.row_weights[[3, 4], 2].toarray().tolist() == [1, 1]
    assert alignment.column_weights[[3, 4], 2].toarray().tolist() == [0.5, 0.5]


def test_both_end_tokens_of_the_source_are_paired_with_the_only_one_of_the_target():
    source = vocabulary(eos=3, turn_end=4)
    target = vocabulary(eos=2, turn_end=2)
    alignment = IdenticalBytes().build(source, target)
    assert alignment.row_weights[2, [3, 4]].toarray().tolist() == [0.5, 0.5]
    assert alignment.column_weights[2, [3, 4]].toarray().tolist() == [1, 1]


def test_a_token_that_begins_texts_and_turns_is_paired_with_both():
    assert pairs(vocabulary(bos=2, turn_begin=2), vocabulary(bos=3, turn_begin=4)) == {(3, 2): 1, (4, 2): 1}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_token_with_roles_of_different_meanings_is_paired_by_the_first_in_the_order(swapped):
    single = vocabulary(bos=2, eos=2, pad=2)
    many = vocabulary(bos=3, eos=4, pad=5)
    expected = {(4, 2): 1}
    assert pairs(single, many) == expected
    assert pairs(many, single) == {(w, y): n for (y, w), n in expected.items()}


def test_a_pad_token_without_another_role_is_paired():
    assert pairs(vocabulary(eos=2, pad=3), vocabulary(eos=4, pad=5)) == {(4, 2): 1, (5, 3): 1}


def test_a_role_of_a_text_token_or_of_an_unused_id_pins_nothing():
    tokenizer = Tokenizer(models.BPE(LETTERS, []))
    tokenizer.add_tokens([AddedToken("<|reserved_special_token_0|>", special=True)])
    reserved = Vocabulary.from_tokenizer(tokenizer, roles={"pad": 2})
    assert pairs(vocabulary(pad=3), reserved) == {}
    assert pairs(reserved, vocabulary(pad=3)) == {}
    assert pairs(vocabulary(pad=0), vocabulary(pad=2)) == {}


def test_a_pinned_entry_is_alone_in_its_row_and_column():
    source, target = vocabulary(eos=2, bos=3), vocabulary(eos=3, bos=2)
    full = sp.csr_array(np.full((target.size, source.size), 7.0))
    counts = pin_roles(full, source, target).toarray()
    assert counts[3].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert counts[:, 2].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert counts[2].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert (counts[4:, 4:] == 7).all()


def test_the_unknown_token_keeps_the_tokens_that_become_it():
    unknowing = [Tokenizer(models.BPE({letter: 0, "<unk>": 1}, [], unk_token="<unk>")) for letter in "xy"]
    source, target = (Vocabulary.from_tokenizer(tokenizer) for tokenizer in unknowing)
    for builder in (Retokenize(), Combined()):
        counts = builder.build(source, target).counts.toarray()
        assert counts.tolist() == [[0, 1], [1, 1]]
