"""Stop strings are found wherever a plain search of the written bytes finds them, and as soon as it does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig, StoppingCriteriaList

from vocabridge.alignment import VocabridgeError
from vocabridge.decoding.stop_strings import StopStrings, cut, held, stop_bytes, stopped

ALPHABET = "ab🙂\n é"
texts = st.text(ALPHABET, max_size=12)
stop_lists = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3)
END = 1


def written(vocabulary, ids):
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids)


@given(data=st.data())
def test_a_row_is_finished_in_the_step_in_which_a_plain_search_finds_a_stop_string(vocabularies, data):
    vocabulary = vocabularies["sentencepiece"]
    # Whole words, single bytes and tokens without bytes, so that stop strings begin and end anywhere.
    usable = [i for i in vocabulary.usable.tolist() if set(vocabulary.token_bytes[i]) <= set(ALPHABET.encode())]
    token = st.sampled_from([*usable, END])
    prompt, steps = data.draw(st.integers(0, 3)), data.draw(st.lists(st.integers(1, 3), max_size=8))
    rows = data.draw(st.lists(st.lists(token, min_size=40, max_size=40), min_size=1, max_size=3))
    stops = data.draw(stop_lists)
    criterion = StopStrings(vocabulary, stops, prompt)
    ids, length, before = torch.tensor(rows), prompt, [False] * len(rows)
    for step in steps:
        length += step
        found = criterion(ids[:, :length], None).tolist()
        plain = [any(s.encode() in written(vocabulary, row[prompt:length]) for s in stops) for row in rows]
        for now, new, ever in zip(found, plain, before, strict=True):
            assert now >= (new and not ever)
            assert now <= new
        before = plain


def test_beams_and_further_texts_are_looked_at_anew(vocabularies):
    vocabulary = vocabularies["byte_level"]
    ids = torch.tensor([vocabulary.encode("The quick").ids.tolist()[:3], vocabulary.encode("12345").ids.tolist()[:3]])
    criterion = StopStrings(vocabulary, "23", 0)
    assert criterion(ids[:, :2], None).tolist() == [False, False]
    assert criterion(ids.flip(0), None).tolist() == [True, False]
    assert criterion(ids, None).tolist() == [False, True]
    assert criterion(ids[:1], None).tolist() == [False]


def test_the_prompt_is_not_searched_nor_what_goes_on_from_it(vocabularies):
    vocabulary = vocabularies["byte_level"]
    ids = torch.tensor([vocabulary.encode("12345").ids.tolist()])
    assert StopStrings(vocabulary, ["23"], 2)(ids, None).tolist() == [False]
    assert StopStrings(vocabulary, ["34"], 2)(ids, None).tolist() == [True]


def test_generate_ends_where_the_stop_string_is_complete(parts):
    vocabulary = parts.base.vocabulary
    ids = torch.tensor([[0, *vocabulary.encode("The quick").ids.tolist()]])
    config = GenerationConfig(max_new_tokens=16, do_sample=False, pad_token_id=END)

    def new(*criteria):
        output = parts.base.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList(criteria),
        )
        return written(vocabulary, output[0, ids.shape[1] :].tolist())

    whole = new()
    start = next(i for i in range(4, len(whole)) if whole[i : i + 2].isascii())
    stop = whole[start : start + 2].decode()
    short = new(StopStrings(vocabulary, stop, ids.shape[1]))
    assert whole.startswith(short)
    assert stop.encode() in short
    assert len(short) < len(whole)


@given(data=texts.map(str.encode), stops=stop_lists)
def test_a_text_is_cut_where_the_first_stop_string_that_is_complete_begins(data, stops):
    ends = {i for stop in stops for i in range(len(data) + 1) if data[:i].endswith(stop.encode())}
    short = cut(data, stops)
    assert data.startswith(short)
    if not ends:
        assert short == data
    else:
        assert short == min(
            data[: min(ends) - len(s.encode())] for s in stops if data[: min(ends)].endswith(s.encode())
        )


@given(data=texts.map(str.encode), stops=stop_lists)
def test_what_is_held_back_is_all_that_may_become_a_stop_string(data, stops):
    expected = [
        size
        for size in range(1, len(data) + 1)
        if any(len(s.encode()) > size and s.encode().startswith(data[-size:]) for s in stops)
    ]
    if stopped(data, stop_bytes(stops)) is None:
        assert held(data, stop_bytes(stops)) == max(expected, default=0)


def test_one_stop_string_is_no_list_of_characters():
    assert cut(b"abc", "bc") == b"a"
    assert cut(b"abc", ["c", "bc"]) == b"a"
    assert cut(b"abcd", ("bcd", "c")) == b"ab"


def test_an_empty_stop_string_is_refused(vocabularies):
    with pytest.raises(VocabridgeError, match="a stop string is empty"):
        StopStrings(vocabularies["byte_level"], ["###", ""], 0)
