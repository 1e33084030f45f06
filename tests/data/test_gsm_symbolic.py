"""Tests of the sample task's files."""

import hashlib
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest

from vocabridge.data import corpus_files, task_file

SPLITS = ("train", "validation", "test")


def items(split):
    return [json.loads(line) for line in task_file(split).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("split", SPLITS)
def test_every_line_is_a_prompt_and_a_worked_answer_that_ends_with_the_answer(split):
    for item in items(split):
        assert set(item) == {"id", "template", "prompt", "response", "answer"}
        assert item["prompt"].startswith("Question: ")
        assert item["prompt"].endswith("\nAnswer:")
        assert re.fullmatch(r" \S(?:.*\S)?\n#### -?\d+", item["response"], re.S)
        assert item["response"].endswith(f"\n#### {item['answer']}")


@pytest.mark.parametrize(("split", "templates", "count"), [("train", 48, 8), ("validation", 8, 6), ("test", 17, 6)])
def test_every_template_has_the_same_number_of_items(split, templates, count):
    templates_of_items = [item["template"] for item in items(split)]
    assert {templates_of_items.count(template) for template in templates_of_items} == {count}
    assert len(set(templates_of_items)) == templates


@pytest.mark.parametrize(("split", "other"), list(combinations(SPLITS, 2)))
def test_no_template_is_in_two_splits(split, other):
    assert not {item["template"] for item in items(split)} & {item["template"] for item in items(other)}


@pytest.mark.parametrize("key", ["id", "prompt"])
def test_no_item_occurs_twice(key):
    values = [item[key] for split in SPLITS for item in items(split)]
    assert len(values) == len(set(values))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_corpus_holds_no_held_out_item(split):
    corpus = "\n".join(path.read_text(encoding="utf-8") for path in corpus_files())
    assert items("train")[0]["prompt"] in corpus
    assert not [item["id"] for item in items(split) if item["prompt"] in corpus]


@pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs the data extra")
def test_the_generator_makes_the_shipped_bytes_again(tmp_path):
    script = Path(task_file("train")).parent / "generate.py"
    subprocess.run([sys.executable, script, "--output", tmp_path], check=True, capture_output=True, timeout=300)
    for split in SPLITS:
        made, shipped = (tmp_path / f"{split}.jsonl").read_bytes(), task_file(split).read_bytes()
        assert hashlib.sha256(made).hexdigest() == hashlib.sha256(shipped).hexdigest()
