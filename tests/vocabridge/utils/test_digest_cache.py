"""Tests of the cache of file digests, which notices every change that the system dates."""

from __future__ import annotations

import json
import os
import time

import pytest

from vocabridge.alignment import cache_folder
from vocabridge.utils import digest_cache
from vocabridge.utils.digest_cache import cached_file_digest
from vocabridge.utils.hashing import digest, file_digest


@pytest.fixture
def read(monkeypatch):
    """List the files whose content was read; every file counts as large, and as settled 1 ms after its last change."""
    files = []
    monkeypatch.setattr(digest_cache, "LARGE", 1)
    monkeypatch.setattr(digest_cache, "_RECENT", 10**6)
    monkeypatch.setattr(digest_cache, "file_digest", lambda path: (files.append(path), file_digest(path))[1])
    return files


def settle():
    time.sleep(0.03)  # several ticks of the file system's clock


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    settle()
    return path


def test_an_unchanged_file_is_read_once(file, read):
    assert [cached_file_digest(file) for _ in range(3)] == [digest(b"weights")] * 3
    assert read == [file]


def test_a_change_that_keeps_size_and_date_is_noticed(file, read):
    cached_file_digest(file)
    status = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert cached_file_digest(file) == digest(b"WEIGHTS")


def test_a_replacement_with_the_same_size_and_date_is_noticed(file, read, tmp_path):
    cached_file_digest(file)
    (tmp_path / "other").write_bytes(b"WEIGHTS")
    os.utime(tmp_path / "other", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    (tmp_path / "other").replace(file)
    assert cached_file_digest(file) == digest(b"WEIGHTS")


def test_the_digest_of_a_file_that_has_just_changed_is_not_cached(file, read, monkeypatch):
    monkeypatch.setattr(digest_cache, "_RECENT", 10**12)
    assert cached_file_digest(file) == cached_file_digest(file) == digest(b"weights")
    assert read == [file, file]


def test_the_digest_of_a_file_that_changes_while_it_is_read_is_not_cached(file, read, monkeypatch):
    def changing(path):
        sha256 = file_digest(path)
        path.write_bytes(b"WEIGHTS")
        return sha256

    monkeypatch.setattr(digest_cache, "file_digest", changing)
    cached_file_digest(file)
    monkeypatch.setattr(digest_cache, "file_digest", file_digest)
    settle()
    assert cached_file_digest(file) == digest(b"WEIGHTS")


@pytest.mark.parametrize("content", ["", "[]", "null", '{"sha256": 5}', "[" * 10**5])
def test_a_damaged_entry_is_replaced(file, read, content):
    cached_file_digest(file)
    (entry,) = (cache_folder() / "digests").iterdir()
    entry.write_text(content)
    assert cached_file_digest(file) == digest(b"weights")
    assert json.loads(entry.read_text())["sha256"] == digest(b"weights")


def test_a_cache_folder_that_cannot_be_written_is_no_error(file, read, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("VOCABRIDGE_CACHE", str(tmp_path / "cache"))
    assert cached_file_digest(file) == cached_file_digest(file) == digest(b"weights")
    assert read == [file, file]


def test_a_small_file_is_read_every_time_and_leaves_no_entry(file):
    assert cached_file_digest(file) == digest(b"weights")
    assert not (cache_folder() / "digests").exists()
