"""Tasks: templates over a file's fields, final answers, choices, and generated tasks."""

from __future__ import annotations

import json

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.evaluation.answers import Extractor
from vocabridge.evaluation.tasks import Template, digest, load_task

GSM8K = {"question": "How much is 600 + 600?", "answer": "It is 600+600=<<600+600=1200>>1200.\n#### 1,200"}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 and\n#### 1,200\nand 7", "1,200"),
        ("#### $5.50", "5.50"),
        ("first 3, then -4.", "-4"),
        ("no number", None),
    ],
)
def test_the_final_answer_is_the_number_after_the_mark_or_else_the_last(text, answer):
    assert Extractor().find(text) == answer


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [("#### 1200", "1,200", True), ("12.0", "12", True), ("#### 12\n13", "13", False), ("", "13", False)],
)
def test_numbers_are_compared_as_numbers(text, answer, right):
    assert Extractor().is_correct(text, answer) is right


def test_the_first_group_of_a_pattern_is_the_answer_and_case_is_ignored():
    extractor = Extractor(r"answer is (\w+)")
    assert extractor.find("The answer is Paris.") == "Paris"
    assert extractor.is_correct("the answer is PARIS\n", "paris")
    assert not extractor.is_correct("Paris", "paris")
    assert Extractor("[A-D]").find("e: C") == "C"


def test_an_answer_is_complete_at_the_end_of_its_line():
    assert [Extractor().is_complete(text) for text in ("12", "#### 12", "#### 12\n")] == [False, False, True]
    assert Extractor("is (.+)").is_complete("it is so\n")


def test_an_invalid_regular_expression_is_refused():
    with pytest.raises(VocabridgeError, match=r"'\(' is not a regular expression"):
        Extractor("(")


def test_the_raw_file_of_gsm8k_makes_items(tmp_path):
    template = Template("Question: {question}\nAnswer:", " {answer}", Extractor(r"#### (.*)"))
    (item,) = load_task(write(tmp_path / "raw.jsonl", GSM8K), template).items
    assert item.example.prompt == "Question: How much is 600 + 600?\nAnswer:"
    assert item.example.response == " " + GSM8K["answer"]
    assert item.example.answer == "1,200"


def test_fields_that_are_not_strings_are_json_and_other_braces_stay(tmp_path):
    path = write(tmp_path / "data.jsonl", {"n": 3, "list": ["é"], "response": "{n} stays"})
    (item,) = load_task(path, Template("{n} of {list}, {} { n }")).items
    assert item.example.text == '3 of ["é"], {} { n }{n} stays'


def test_choices_hold_the_right_response_once(tmp_path):
    good = {"prompt": "p", "response": " b", "choices": [" a", " b"]}
    (item,) = load_task(write(tmp_path / "data.jsonl", good), Template()).items
    assert item.choices == (" a", " b")
    for choices, reason in (
        ([" a"], 'does not have its response exactly once among its "choices"'),
        ([" b", 3], 'has "choices" that are not a list of strings'),
        ("ab", 'has "choices" that are not a list of strings'),
    ):
        with pytest.raises(VocabridgeError, match=f"line 1, {reason}"):
            load_task(write(tmp_path / "data.jsonl", good | {"choices": choices}), Template())


def test_a_missing_field_is_named_with_its_line(tmp_path):
    path = write(tmp_path / "data.jsonl", GSM8K)
    with pytest.raises(VocabridgeError, match='line 1, has no field "problem"'):
        load_task(path, Template("{problem}"))
    with pytest.raises(VocabridgeError, match='line 1, has no string "prompt"'):
        load_task(path, Template())


def test_reasoning_gym_generates_the_same_items_again():
    pytest.importorskip("reasoning_gym")
    source = "reasoning-gym:leg_counting:3:5"
    task = load_task(source, Template())
    assert len(task.items) == 5
    assert task == load_task(source, Template())
    assert digest(source) == digest(source) != digest("reasoning-gym:leg_counting:4:5")
    for item in task.items:
        assert task.extractor.is_correct(item.example.response, item.example.answer)
    with pytest.raises(VocabridgeError, match="write reasoning-gym:NAME:SEED:SIZE"):
        load_task("reasoning-gym:nothing", Template())
