"""A saved alignment is loaded unchanged; an altered, foreign or truncated file is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vocabridge.alignment import Alignment, Combined, Corpus, VocabridgeError, Vocabulary, write_atomically
from vocabridge.alignment.sparse import sums


@pytest.fixture(scope="module")
def pair(vocabularies: dict[str, Vocabulary]) -> tuple[Vocabulary, Vocabulary]:
    return vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]


@pytest.fixture
def built(pair, tmp_path, text) -> Alignment:
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    return Combined().build(*pair, Corpus.open([tmp_path / "corpus.txt"]))


@pytest.fixture
def saved(built, tmp_path) -> Path:
    built.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_saved_alignment_is_loaded_with_its_provenance(built, saved, pair):
    loaded = Alignment.load(saved, source=pair[0], target=pair[1])
    assert (loaded.counts != built.counts).nnz == 0
    for name in ("source", "target", "method", "parameters", "corpus", "version"):
        assert getattr(loaded, name) == getattr(built, name)
    assert loaded.summary() == built.summary()


def test_the_file_is_the_three_arrays_of_a_csr_matrix(saved, built):
    tensors = load_file(saved)
    assert {name: t.dtype for name, t in tensors.items()} == {
        "indptr": np.int64,
        "indices": np.int32,
        "data": np.float32,
    }
    with safe_open(saved, framework="numpy") as file:
        assert list(file.metadata()) == ["vocabridge"]
    matrix = sp.csr_array((tensors["data"], tensors["indices"], tensors["indptr"]), shape=built.counts.shape)
    assert (matrix != built.counts).nnz == 0


def test_saving_twice_gives_the_same_bytes(built, saved, tmp_path):
    built.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == saved.read_bytes()


def test_an_altered_byte_anywhere_is_an_error(saved):
    content = saved.read_bytes()
    generator = np.random.default_rng(0)
    for at in [0, 7, 8, 30, len(content) - 1, *generator.integers(0, len(content), 60).tolist()]:
        saved.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(VocabridgeError, match=r"a\.safetensors: .*build it again"):
            Alignment.load(saved)


@pytest.mark.parametrize("length", [0, 5, 100, 1000, -1])
def test_a_truncated_file_is_an_error(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(VocabridgeError, match=r"a\.safetensors: not readable as an alignment .*build it again"):
        Alignment.load(saved)


def test_a_foreign_file_a_file_of_a_future_format_and_a_missing_file_are_errors(saved, tmp_path):
    save_file({"x": np.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(VocabridgeError, match="a safetensors file, but not an alignment"):
        Alignment.load(tmp_path / "foreign.safetensors")
    with safe_open(saved, framework="numpy") as file:
        facts = json.loads(file.metadata()["vocabridge"]) | {"format": 99}
    save_file(load_file(saved), tmp_path / "future.safetensors", {"vocabridge": json.dumps(facts)})
    with pytest.raises(VocabridgeError, match="of format 99, and this version reads 4"):
        Alignment.load(tmp_path / "future.safetensors")
    with pytest.raises(VocabridgeError, match=r"none\.safetensors: no such file; an alignment is expected"):
        Alignment.load(tmp_path / "none.safetensors")
    save_file({"x": np.zeros(3)}, tmp_path / "odd.safetensors", {"vocabridge": "[1]"})
    with pytest.raises(VocabridgeError, match=r"odd\.safetensors: not readable as an alignment"):
        Alignment.load(tmp_path / "odd.safetensors")


def test_another_tokenizer_is_an_error_that_names_the_side(saved, pair):
    source, target = pair
    with pytest.raises(VocabridgeError, match=f"source tokenizer byte_level_bpe .*{source.fingerprint[:12]}"):
        Alignment.load(saved, source=target, target=target)
    with pytest.raises(VocabridgeError, match=f"target tokenizer .* not byte_level_bpe .*{source.fingerprint[:12]}"):
        Alignment.load(saved, source=source, target=source)


def test_a_failed_write_is_an_error_that_leaves_the_old_file_and_nothing_else(saved, tmp_path, monkeypatch):
    before = sorted(tmp_path.iterdir()), saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VocabridgeError, match=r"a\.safetensors: cannot be written \(No space left"):
        write_atomically(saved, b"new")
    assert (sorted(tmp_path.iterdir()), saved.read_bytes()) == before

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(saved, b"new")
    assert (sorted(tmp_path.iterdir()), saved.read_bytes()) == before


def test_a_missing_folder_is_an_error(built, tmp_path):
    with pytest.raises(VocabridgeError, match=r"x\.safetensors: cannot be written \(No such file"):
        built.save(tmp_path / "none" / "x.safetensors")


def test_a_saved_file_has_the_permissions_of_any_new_file(saved, tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_summary_counts_covered_tokens_and_pairs(built, pair):
    summary = built.summary()
    rows = np.diff(built.counts.indptr)
    assert summary.pairs == rows.sum()
    assert summary.target_usable == len(pair[1].usable)
    assert summary.target_coverage == summary.source_coverage == 1.0
    assert summary.largest_row == rows.max()
    assert summary.mean_row == summary.pairs / np.count_nonzero(rows)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_sum_to_1_however_many_counts_there_are(built, axis):
    """Scipy sums float32 entries in float32, whatever the dtype argument; with 15,000 entries the error is 6e-6."""
    values = np.random.default_rng(0).lognormal(0, 3, 15_000).astype(np.float32)
    counts = sp.csr_array(values[:, None] if axis == 0 else values[None])
    alignment = dataclasses.replace(built, counts=counts)
    weights = alignment.column_weights if axis == 0 else alignment.row_weights
    assert weights.data.sum(dtype=np.float64) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, sp.coo_array])
def test_sums_of_rows_and_columns_are_accumulated_in_float64(form):
    dense = np.random.default_rng(1).lognormal(0, 3, (3, 15_000)).astype(np.float32)
    dense[1] = 0
    for axis in (0, 1):
        for matrix in (form(dense), form(dense.T)):
            np.testing.assert_allclose(sums(matrix, axis), matrix.toarray().sum(axis, dtype=np.float64), rtol=1e-12)
