"""Tests of records from files, folders and the hub, and of the digests of their sources."""

from __future__ import annotations

import hashlib
import json
import sys

import datasets
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import VocabridgeError
from vocabridge.utils.jsonl import data_digest, read_records

ROWS = [{"text": "one", "id": None}, {"text": "two", "id": 2}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def hub(monkeypatch):
    """Record the calls of `load_dataset`, which returns ROWS."""
    calls = []

    def load_dataset(*arguments, **named):
        calls.append((*arguments, named))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
@settings(max_examples=examples(50))
def test_records_are_read_as_they_were_written(tmp_path_factory, rows, ascii_only, line_end):
    path = tmp_path_factory.mktemp("records") / "data.jsonl"
    lines = [json.dumps(fields, ensure_ascii=ascii_only) for fields in rows]
    path.write_bytes(line_end.join(lines).encode())
    records = read_records(path)
    assert [record.fields for record in records] == rows
    step = len(line_end.replace("\r", ""))
    assert [record.number for record in records] == [1 + step * i for i in range(len(rows))]


def test_the_records_of_a_folder_are_those_of_its_jsonl_files_in_the_order_of_names(tmp_path):
    for name, text in (("b.jsonl", "2"), ("a.jsonl", "1"), ("c.txt", "3")):
        (tmp_path / name).write_text(f'\n{{"text": "{text}"}}\n')
    records = read_records(str(tmp_path))
    assert [record.fields["text"] for record in records] == ["1", "2"]
    assert [record.where for record in records] == [f"{tmp_path / name}, line 2" for name in ("a.jsonl", "b.jsonl")]
    content = b"".join((tmp_path / name).read_bytes() for name in ("a.jsonl", "b.jsonl"))
    assert data_digest(tmp_path) == hashlib.sha256(content).hexdigest()


def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "\xc3\xa9"}\r\n\r\n')
    assert data_digest(path) == data_digest(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not valid JSON (Expecting property name"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"text": ["a\\ud83d"]}', "holds half of a surrogate pair as an escape; correct that line"),
        (b'{"text": "\xff"}', "is not UTF-8 text (byte 10)"),
        (b'{"a":' * 100_000, "is not valid JSON (it is nested too deeply"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "is not valid JSON (Exceeds the limit"),
    ],
)
def test_an_error_names_the_bad_line(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}')
    with pytest.raises(VocabridgeError) as error:
        read_records(path)
    assert f"{path}, line 3, {message}" in str(error.value)


def test_a_source_without_records_is_an_error(tmp_path):
    for read in (read_records, data_digest):
        with pytest.raises(VocabridgeError, match=r"there is no \*\.jsonl in "):
            read(tmp_path)
        with pytest.raises(VocabridgeError, match="there is no file"):
            read(tmp_path / "nowhere.jsonl")
    (tmp_path / "data.jsonl").write_bytes(b" \n\r\n")
    with pytest.raises(VocabridgeError, match=r"data\.jsonl holds no records"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("source", "called"),
    [
        ("hf:someone/some-data/train", ("someone/some-data", None, {"split": "train"})),
        ("hf:someone/some_data:main.v2/test[:10%]", ("someone/some_data", "main.v2", {"split": "test[:10%]"})),
    ],
)
def test_a_data_set_of_the_hub_is_read_by_name_config_and_split(hub, source, called):
    records = read_records(source)
    assert hub == [called]
    assert [dict(record.fields) for record in records] == ROWS
    assert [record.where for record in records] == [f"{source}, row 1", f"{source}, row 2"]
    lines = b'{"id": null, "text": "one"}\n{"id": 2, "text": "two"}\n'
    assert data_digest(source) == hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize("source", ["hf:", "hf:some-data", "hf:someone/some-data", "hf:a/b:/c", "hf:a/b/c/d"])
def test_a_source_that_names_no_data_set_is_an_error(hub, source):
    with pytest.raises(VocabridgeError, match="does not name a data set of the hub; write hf:owner/name"):
        read_records(source)
    assert not hub


def test_an_unreachable_hub_is_an_error(monkeypatch):
    def load_dataset(*_arguments, **_named):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(VocabridgeError, match=r"hf:a/b/train cannot be read \(no route\); check its name"):
        read_records("hf:a/b/train")


def test_an_empty_split_is_an_error(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_arguments, **_named: datasets.Dataset.from_list([]))
    with pytest.raises(VocabridgeError, match="hf:a/b/train holds no records"):
        read_records("hf:a/b/train")


def test_only_data_sets_of_the_hub_need_the_datasets_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(VocabridgeError, match=r"pip install 'vocabridge\[train\]'"):
        read_records("hf:a/b/train")
    (tmp_path / "data.jsonl").write_text('{"text": "a"}')
    assert len(read_records(tmp_path)) == 1
