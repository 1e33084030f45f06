"""Models from GGUF files, tried with a tiny model that is written here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from vocabridge.alignment import VocabridgeError, cache_folder
from vocabridge.models import gguf_conversion
from vocabridge.models.loading import load_model


def write_model(path: Path, tokens: list[str]) -> Path:
    """Write a Llama of one layer whose first two tokens are control tokens."""
    writer = GGUFWriter(path, "llama")
    width, inner, size = 32, 48, len(tokens)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (size - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (size, width), "output_norm": (width,), "output": (size, width)}
    shapes |= {f"blk.0.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{name}": (width, width) for name in ("q", "output")}
    shapes |= {f"blk.0.attn_{name}": (16, width) for name in ("k", "v")}
    shapes |= {"blk.0.ffn_gate": (inner, width), "blk.0.ffn_up": (inner, width), "blk.0.ffn_down": (width, inner)}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * 0.1).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_gguf_model_with_two_tokens_of_one_spelling_keeps_the_bytes_of_both_ids(tmp_path):
    """Read the GGUF file, because the tokenizer.json of the converted folder has one id per spelling."""
    path = write_model(tmp_path / "tiny.gguf", ["<s>", "</s>", "a", "b", "ab", "Ġ", "ab"])
    vocabulary = load_model(str(path)).vocabulary
    assert vocabulary.token_bytes == (None, None, b"a", b"b", b"ab", b" ", b"ab")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "digests.json"])
def test_a_converted_folder_that_is_damaged_is_converted_again_with_a_warning(tmp_path, monkeypatch, caplog, name):
    path = write_model(tmp_path / "tiny.gguf", ["<s>", "</s>", "a", "b", "ab", "Ġ", "ab"])
    load_model(str(path))
    (folder,) = (folder for folder in (cache_folder() / "models").iterdir() if folder.is_dir())
    sound = {file.name: file.read_bytes() for file in folder.iterdir()}
    load_model(str(path))
    assert not caplog.records
    damaged = bytearray(sound[name])
    damaged[-2] ^= 1
    (folder / name).write_bytes(damaged)
    monkeypatch.setattr(gguf_conversion, "_sound", set())  # as in another process
    load_model(str(path))
    assert [record.getMessage() for record in caplog.records] == [
        f"Converting a damaged model of the cache again: {folder}"
    ]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == sound


def test_a_model_whose_weights_are_cut_off_or_a_git_lfs_pointer_is_named(own):
    weights = own / "source" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    with pytest.raises(VocabridgeError, match=r"model\.safetensors: cut off at \d+ of \d+ bytes; download it again"):
        load_model(str(own / "source"))
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(VocabridgeError, match=r"model\.safetensors: a Git LFS pointer and not the file itself"):
        load_model(str(own / "source"))
