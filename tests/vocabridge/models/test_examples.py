"""JSONL of prompts and responses, their tokens, and the answers that generations are scored on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.data import task_file
from vocabridge.evaluation.answers import Extractor
from vocabridge.models.examples import Example, load_examples, tokenize, tokenize_scored

GOOD = '{"prompt": "Q", "response": "R"}'


def test_what_a_line_may_hold(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [
        GOOD,
        "",
        '{"prompt": "a", "response": "é\\u2028b", "answer": 42, "id": "x7", "template": 3}',
        '{"prompt": "c", "response": "d", "id": 9, "other": []}',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert load_examples(path) == [
        Example("Q", "R", None, "1", "1"),
        Example("a", "é\u2028b", "42", "x7", "3"),
        Example("c", "d", None, "9", "9"),
    ]
    assert len(load_examples(path, limit=2)) == 2


def test_separators_inside_strings_do_not_end_a_line(tmp_path):
    path = tmp_path / "data.jsonl"
    fields = {"prompt": "a\u2028b\x0cc\x85d", "response": "e\u2029f"}
    path.write_text(json.dumps(fields, ensure_ascii=False) + "\r\n" + GOOD, encoding="utf-8", newline="")
    first, second = load_examples(path)
    assert (first.prompt, first.response, second.id) == ("a\u2028b\x0cc\x85d", "e\u2029f", "2")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 3, is not valid JSON"),
        ('{"prompt": "a", "response": "b"', "line 3, is not valid JSON"),
        ("[]", "line 3, is not a JSON object"),
        ("null", "line 3, is not a JSON object"),
        ("{}", 'line 3, has no string "prompt"'),
        ('{"prompt": "a"}', 'line 3, has no string "response"'),
        ('{"prompt": "a", "response": 3}', 'line 3, has no string "response"'),
        ('{"prompt": "", "response": "b"}', "line 3, has an empty prompt or response"),
        ('{"prompt": "a", "response": ""}', "line 3, has an empty prompt or response"),
        ('{"prompt": "\\ud800", "response": "b"}', "line 3, "),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    path = tmp_path / "data.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(VocabridgeError) as error:
        load_examples(path)
    assert f"{path}, {says}" in str(error.value)


def test_files_that_hold_no_examples(tmp_path):
    with pytest.raises(VocabridgeError, match="there is no file"):
        load_examples(tmp_path / "nowhere.jsonl")
    path = tmp_path / "data.jsonl"
    path.write_text("\n\n")
    with pytest.raises(VocabridgeError, match="holds no records"):
        load_examples(path)
    path.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(VocabridgeError, match="line 1, is not UTF-8"):
        load_examples(path)


def test_the_shipped_data_can_be_read():
    counts = {name: len(load_examples(task_file(name))) for name in ("train", "validation", "test")}
    assert all(counts.values())
    assert all(Extractor().is_correct(item.response, item.answer) for item in load_examples(task_file("test")))


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("Question: 24?\nAnswer:", " 24*7=168\n#### 168\n"),
        ("The quick brown f", "ox jumps"),
        ("cafés 🙂", "🎉 東京"),
        ("a", "b"),
    ],
)
def test_the_first_token_of_a_response_is_the_first_that_ends_after_the_prompt(
    any_vocabulary, loaded, prompt, response
):
    example = Example(prompt, response, None, "1", "1")
    for vocabulary in (any_vocabulary, loaded["target"].vocabulary):
        tokens = tokenize(example, vocabulary)
        begin = int(vocabulary.add_bos_token)
        encoding = vocabulary.encode_prompt(prompt + response)
        assert tokens.ids[begin:] == encoding.ids.tolist()
        assert begin <= tokens.first < len(tokens.ids)
        if (encoding.starts >= 0).all():
            ends = [*encoding.starts[1:].tolist(), len((prompt + response).encode())]
            size = len(prompt.encode())
            assert ends[tokens.first - begin] > size
            assert all(end <= size for end in ends[: tokens.first - begin])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 168", "168"),
        ("12 and 7\n#### 1,234\nthen 9", "1,234"),
        ("#### $5.50\n", "5.50"),
        ("####-3", "-3"),
        ("#### 7 #### 8", "7"),
        ("it is 3, or rather 4.", "4"),
        ("12-7=5", "5"),
        ("costs 1,000.25 dollars", "1,000.25"),
        ("#### none, but 6", "6"),
        ("no number", None),
        ("", None),
    ],
)
def test_final_number(text, number):
    assert Extractor().find(text) == number


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("#### 168", False),
        ("#### 168\n", True),
        ("#### 1,68 \nmore", True),
        ("#### \n", False),
        ("168\n", False),
        ("a\n#### 16", False),
    ],
)
def test_is_complete(text, complete):
    assert Extractor().is_complete(text) is complete


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("#### 168", "168", True),
        ("#### 168.0", "168", True),
        ("#### 1,068", "1068", True),
        ("#### 169", "168", False),
        ("so 168", "168.00", True),
        ("nothing", "168", False),
        ("#### 168", "none", False),
        ("none", "none", False),
    ],
)
def test_is_correct(text, answer, correct):
    assert Extractor().is_correct(text, answer) is correct


def test_a_response_without_a_token_before_its_first_cannot_be_scored(vocabularies):
    vocabulary = replace(vocabularies["byte_level"], add_bos_token=False)
    words = (data.decode() for data in vocabulary.token_bytes if data and data.isascii() and data.isalpha())
    token = next(word for word in words if len(word) > 2 and len(vocabulary.encode(word).ids) == 1)
    example = Example(token[:1], token[1:], None, "x7", "x7")
    assert tokenize(example, vocabulary).first == 0
    with pytest.raises(VocabridgeError, match=f"the prompt '{token[:1]}' of item x7 is shorter than the first token"):
        tokenize_scored(example, vocabulary)
    assert tokenize_scored(Example(token, " " + token, None, "x8", "x8"), vocabulary).first == 1
