"""An incompletely downloaded file raises one sentence that names the file and says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.alignment.tokenizers.downloads import check_downloads
from vocabridge.alignment.tokenizers.gguf import announced_size

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 17209920\n"


def write_gguf(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_merges(["a b"])
    writer.add_tensor("first", np.zeros((3, 5), np.float32))
    writer.add_tensor("last", np.zeros((2, 34), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["tokenizer.json", "tekken.json", "config.json", "tokenizer.model"])
def test_a_git_lfs_pointer_in_place_of_a_tokenizer_file_is_named(tmp_path, name):
    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_text(POINTER)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(VocabridgeError, match=rf"/{name}: a Git LFS pointer and not the file itself; download the"):
            Vocabulary.load(source)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.gguf"])
def test_a_git_lfs_pointer_in_place_of_weights_is_named(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(VocabridgeError, match=f"/{name}: a Git LFS pointer"):
        check_downloads(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_safetensors_that_are_cut_off_are_named(tmp_path, kept):
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"a": np.zeros((7, 9), np.float32), "b": np.zeros(3, np.float16)}, path)
    check_downloads(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:kept] if kept >= 0 else data[:-1])
    with pytest.raises(VocabridgeError, match=rf"{path.name}: cut off at \d+ of \d+ bytes; download it again"):
        check_downloads(tmp_path)


def test_a_gguf_file_whose_tensors_are_cut_off_is_named(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    check_downloads(path)
    data = path.read_bytes()
    size = announced_size(path)
    assert 0 <= len(data) - size < 32  # what pads the last tensor may be missing
    path.write_bytes(data[:size])
    Vocabulary.load(path)
    path.write_bytes(data[: size - 1])
    with pytest.raises(
        VocabridgeError, match=rf"model\.gguf: cut off at {size - 1} of {size} bytes; download it again"
    ):
        Vocabulary.load(path)
