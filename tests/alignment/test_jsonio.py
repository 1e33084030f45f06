"""Unusable JSON is one sentence that names the file, whichever file it is."""

import json
import struct

import pytest

from vocabridge.alignment import EmbeddingTable, VocabridgeError, Vocabulary
from vocabridge.alignment.jsonio import DEEPEST, JsonError, parse_json, read_json_object

DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECT = '{"a": ' * 100_000 + "1" + "}" * 100_000


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deeply"),
        (DEEP_OBJECT, "nested too deeply"),
        (nested(DEEPEST + 2), "nested too deeply"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (b"\xff", "not UTF-8 text at byte 0"),
        ("9" * 10_000, "Exceeds the limit"),
    ],
)
def test_a_fault_is_a_clause_of_a_sentence(text, message):
    with pytest.raises(JsonError, match=message):
        parse_json(text)


def test_valid_json_is_parsed_with_and_without_a_byte_order_mark():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, "\xc3\xa9"]}') == {"a": [1, "é"]}
    assert parse_json(nested(DEEPEST))


def test_a_document_that_is_no_object_is_refused_where_an_object_is_needed(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(JsonError, match="it holds a list; it must be an object"):
        read_json_object(tmp_path / "x.json")


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "config.json", "tokenizer_config.json", "special_tokens_map.json", "tekken.json"]
)
def test_a_tokenizers_file_that_is_nested_too_deeply_is_named(tokenizer_folders, tmp_path, name):
    for file in tokenizer_folders.source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(DEEP)
    if name == "tekken.json":
        (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(VocabridgeError, match=f"{name}: not .*; download it again"):
        Vocabulary.load(tmp_path)


def test_an_index_or_a_header_of_weights_that_is_nested_too_deeply_is_named(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(DEEP)
    with pytest.raises(VocabridgeError, match=r"index\.json: not readable as embeddings \(it is nested too deeply\)"):
        EmbeddingTable.open(index)
    for header, message in ((DEEP.encode(), "nested too deeply"), (b"{}", "too deeply|no tensors")):
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(VocabridgeError, match=rf"model\.safetensors: .*{message}"):
            EmbeddingTable.open(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + json.dumps({}).encode())
    with pytest.raises(VocabridgeError, match="its header is longer than the file"):
        EmbeddingTable.open(tmp_path / "model.safetensors")
