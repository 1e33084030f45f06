"""A file compressed with gzip, where its reader does not decompress, is an error that says to decompress it."""

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


def compress(path: Path) -> Path:
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def refused(load: Callable[[Path], object], path: Path, named: Path | None = None) -> None:
    with pytest.raises(VocabridgeError) as error:
        load(path)
    assert str(error.value) == f"{named or path}: compressed with gzip; decompress it (gunzip) and name the result"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"])
def test_a_compressed_file_in_a_tokenizers_folder_is_refused(tokenizer_folders, tmp_path, name):
    folder = shutil.copytree(tokenizer_folders.source, tmp_path / "folder")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    refused(Vocabulary.load, folder, compress(folder / name))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.json.gz", "packed"])
def test_a_compressed_tokenizer_file_is_refused_whatever_its_name(tokenizer_folders, tmp_path, name):
    shutil.copy(tokenizer_folders.source / "tokenizer.json", tmp_path / name)
    refused(Vocabulary.load, compress(tmp_path / name))


def test_a_compressed_alignment_is_refused(tokenizer_folders, tmp_path):
    path = tmp_path / "pair.safetensors"
    align(tokenizer_folders.source, tokenizer_folders.target, method="identical-bytes", cache=False).save(path)
    refused(Alignment.load, compress(path))


@pytest.mark.parametrize("name", ["table.npy", "table.safetensors", "table.json"])
def test_a_compressed_embedding_table_is_refused(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        np.save(file, np.zeros((3, 2), np.float32))
    refused(EmbeddingTable.open, compress(tmp_path / name))


def test_compressed_ranks_and_compressed_json_are_refused(tmp_path):
    for load, name in ((read_tiktoken, "ranks.tiktoken"), (read_json, "any.json")):
        (tmp_path / name).write_text("{}")
        refused(load, compress(tmp_path / name))
