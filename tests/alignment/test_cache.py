"""The cache builds each alignment once, whatever the names and processes, and rebuilds damaged entries."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys

import pytest
from filelock import FileLock
from tokenizers import Tokenizer

from vocabridge.alignment import (
    Alignment,
    Builder,
    Combined,
    DTWCounts,
    VocabridgeError,
    Vocabulary,
    align,
    cache_folder,
)
from vocabridge.alignment.cache import Prune, entries, prune


@pytest.fixture
def pair(vocabularies: dict[str, Vocabulary]) -> tuple[Vocabulary, Vocabulary]:
    return vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which the method of every build is added."""
    methods: list[str] = []
    build = Builder.build

    def recorded(self, *arguments):
        methods.append(self.method)
        return build(self, *arguments)

    monkeypatch.setattr(Builder, "build", recorded)
    return methods


def test_the_second_call_builds_nothing(pair, builds):
    first, second = align(*pair), align(*pair)
    assert builds == ["default"]
    assert (first.counts != second.counts).nnz == 0


def test_everything_that_determines_the_counts_is_in_the_key(pair, builds, tmp_path):
    source, target = pair
    (tmp_path / "a").write_text("a text")
    (tmp_path / "b").write_text("b text")
    extended = Tokenizer.from_str(target.tokenizer.to_str())
    extended.add_tokens(["another word"])
    other = Vocabulary.from_tokenizer(extended, roles=target.roles)
    calls = [
        lambda: align(source, target),
        lambda: align(target, source),
        lambda: align(source, other),
        lambda: align(source, target, method="identical-bytes"),
        lambda: align(source, target, method=DTWCounts(passage=9), corpus=tmp_path / "a"),
        lambda: align(source, target, method=DTWCounts(passage=8), corpus=tmp_path / "a"),
        lambda: align(source, target, corpus=tmp_path / "a"),
        lambda: align(source, target, corpus=tmp_path / "b"),
    ]
    for call in calls:
        call()
    assert len(builds) == len(calls) == len(entries())


def test_the_number_of_processes_is_not_in_the_key(pair, builds, tmp_path):
    (tmp_path / "a").write_text("a text")
    for jobs in (1, 2):
        align(*pair, corpus=tmp_path / "a", jobs=jobs)
    assert builds == ["default"]


def test_an_entry_is_returned_with_the_names_of_the_requested_vocabularies(pair, builds):
    source, target = pair
    align(source, target)
    renamed = Vocabulary.from_tokenizer(source.tokenizer, name="other", roles=source.roles)
    assert align(renamed, target).source.name == "other"
    assert builds == ["default"]


def test_a_damaged_entry_is_listed_and_rebuilt_with_one_warning(pair, builds, caplog):
    align(*pair)
    (entry,) = entries()
    assert entry.problem is None
    assert entry.alignment is not None
    entry.path.write_bytes(entry.path.read_bytes()[:-3])
    assert "not readable as an alignment" in (entries()[0].problem or "")
    with caplog.at_level(logging.WARNING, logger="vocabridge"):
        align(*pair)
    assert builds == ["default", "default"]
    assert [r.name for r in caplog.records] == ["vocabridge"]
    assert "Building a damaged cache entry again" in caplog.text
    assert entries()[0].problem is None


def test_pruning_removes_damaged_entries_and_temporary_files_or_all_entries(pair):
    align(*pair)
    align(*pair, method="identical-bytes")
    damaged, sound = (entry.path for entry in entries())
    damaged.write_bytes(b"x")
    leftover = sound.with_name(f".{sound.name}.0123.part")
    orphan = sound.with_name(".feed.safetensors.0123.part")
    for path in (leftover, orphan):
        path.write_bytes(b"half")
    assert set(prune()) == {damaged, leftover, orphan}
    assert [entry.path for entry in entries()] == [sound]
    assert prune(Prune.ALL) == [sound]
    assert list(sound.parent.iterdir()) == []
    assert prune(Prune.ALL) == []


def test_pruning_leaves_an_entry_that_is_being_built(pair):
    align(*pair)
    (entry,) = entries()
    with FileLock(entry.path.with_suffix(".lock")):
        assert prune(Prune.ALL) == []
    assert len(entries()) == 1


def test_an_interrupted_build_leaves_no_entry_and_no_lock(pair, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Combined, "_count", interrupted)
        with pytest.raises(KeyboardInterrupt):
            align(*pair)
    assert entries() == []
    assert isinstance(align(*pair), Alignment)


def test_an_alignment_that_cannot_be_stored_is_returned(pair, monkeypatch, caplog):
    def full(self, path):
        raise VocabridgeError(f"{path}: cannot be written")

    monkeypatch.setattr(Alignment, "save", full)
    assert align(*pair).counts.nnz
    assert "was built but not cached" in caplog.text


def test_a_cache_folder_that_cannot_be_used_is_an_error_that_says_what_to_set(pair, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOCABRIDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(VocabridgeError, match="set VOCABRIDGE_CACHE to a folder"):
        align(*pair)


def test_an_entry_of_a_read_only_cache_is_used(pair, builds, monkeypatch):
    align(*pair)
    (entry,) = entries()
    entry.path.with_suffix(".lock").unlink(missing_ok=True)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("vocabridge.alignment.cache.FileLock", read_only)  # root may write everywhere
    entry.path.parent.chmod(0o555)
    try:
        assert align(*pair).counts.nnz
        assert builds == ["default"]
        assert [path.name for path in entry.path.parent.iterdir()] == [entry.path.name]
        with pytest.raises(VocabridgeError, match=r"cannot be used \(Read-only file system\); set VOCABRIDGE_CACHE"):
            align(*pair, method="identical-bytes")
    finally:
        entry.path.parent.chmod(0o755)


def test_the_folder_is_that_of_the_environment_variable_or_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("VOCABRIDGE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("VOCABRIDGE_CACHE")
    assert cache_folder().name == "vocabridge"


SLOW_BUILD = """
import sys, time
from vocabridge.alignment import Combined, Corpus, Vocabulary, align
count = Combined._count
def slow(self, *arguments):
    print("building", flush=True)
    time.sleep(0.5)
    return count(self, *arguments)
Combined._count = slow
align(*map(Vocabulary.load, sys.argv[1:]))
"""


def test_two_processes_that_request_the_same_alignment_build_it_once(pair, tmp_path):
    for i, vocabulary in enumerate(pair):
        vocabulary.tokenizer.save(str(tmp_path / f"{i}.json"))
    command = [sys.executable, "-c", SLOW_BUILD, *(str(tmp_path / f"{i}.json") for i in range(2))]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(outputs).count("building") == 1


def test_a_killed_build_leaves_the_cache_usable(pair, tmp_path):
    for i, vocabulary in enumerate(pair):
        vocabulary.tokenizer.save(str(tmp_path / f"{i}.json"))
    files = [tmp_path / f"{i}.json" for i in range(2)]
    killed = SLOW_BUILD.replace("time.sleep(0.5)", "time.sleep(60)")
    command = [sys.executable, "-c", killed, *map(str, files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "building\n"
        process.kill()
        process.wait(timeout=60)
    assert entries() == []
    assert align(*files).counts.nnz
    assert len(entries()) == 1
