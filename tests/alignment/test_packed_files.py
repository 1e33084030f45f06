"""A file that gzip has packed, where it is read as it is, is one sentence that says to unpack it."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vocabridge.alignment import (
    Alignment,
    EmbeddingTable,
    VocabridgeError,
    Vocabulary,
    align,
    read_tiktoken,
)
from vocabridge.alignment.jsonio import read_json


def pack(path: Path) -> Path:
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def refused(load: Callable[[Path], object], path: Path, named: Path | None = None) -> None:
    with pytest.raises(VocabridgeError) as error:
        load(path)
    assert str(error.value) == f"{named or path}: packed by gzip; unpack it (gunzip) and name the unpacked file."


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"])
def test_a_packed_file_of_a_tokenizers_folder(tokenizer_folders, tmp_path, name):
    folder = shutil.copytree(tokenizer_folders.source, tmp_path / "folder")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    refused(Vocabulary.load, folder, pack(folder / name))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.json.gz", "packed"])
def test_a_packed_tokenizer_by_its_own_name(tokenizer_folders, tmp_path, name):
    shutil.copy(tokenizer_folders.source / "tokenizer.json", tmp_path / name)
    refused(Vocabulary.load, pack(tmp_path / name))


def test_a_packed_alignment(tokenizer_folders, tmp_path):
    path = tmp_path / "pair.safetensors"
    align(tokenizer_folders.source, tokenizer_folders.target, method="identical-bytes", cache=False).save(path)
    refused(Alignment.load, pack(path))


@pytest.mark.parametrize("name", ["table.npy", "table.safetensors", "table.json"])
def test_a_packed_embedding_table(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.zeros((3, 2), np.float32))
    refused(EmbeddingTable.open, pack(tmp_path / name))


def test_packed_ranks_and_packed_json(tmp_path):
    for load, name in ((read_tiktoken, "ranks.tiktoken"), (read_json, "any.json")):
        (tmp_path / name).write_text("{}")
        refused(load, pack(tmp_path / name))
