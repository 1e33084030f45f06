"""Atomic writes follow links and write devices and pipes directly; a locked folder has one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from vocabridge.alignment import VocabridgeError, write_atomically
from vocabridge.alignment.files import LOCK, locked_folder, new_folder, own_descriptor


def test_the_target_of_a_symbolic_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("data/real")
    (tmp_path / "link2").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("data/new")
    old = (tmp_path / "data" / "real").stat().st_ino
    for name in ("link2", "dangling"):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "data" / "real").read_bytes() == (tmp_path / "data" / "new").read_bytes() == b"new"
    assert (tmp_path / "data" / "real").stat().st_ino != old  # replaced, not written into
    assert sorted(os.listdir(tmp_path / "data")) == ["new", "real"]


def test_a_pipe_is_written_directly(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_atomically(tmp_path / "pipe", b"new" * 50_000)
    reader.join(timeout=60)
    assert received == [b"new" * 50_000]
    assert (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_directly():
    write_atomically("/dev/null", b"new")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="open files have no paths here")
def test_an_open_file_of_this_process_is_written_at_its_current_position(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before ")
        file.flush()
        number = file.fileno()
        (tmp_path / "link").symlink_to(f"/dev/fd/{number}")
        assert own_descriptor(Path(f"/dev/fd/{number}")) == own_descriptor(tmp_path / "link") == number
        write_atomically(tmp_path / "link", b"new")
        file.write(b" after")
    assert (tmp_path / "out").read_bytes() == b"before new after"
    assert (own_descriptor(Path("/dev/stdout")), own_descriptor(tmp_path / "out")) == (1, None)


def test_a_folder_and_a_loop_of_links_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(VocabridgeError, match=r"folder: cannot be written \(it is a folder\)"):
        write_atomically(tmp_path / "folder", b"new")
    with pytest.raises(VocabridgeError, match="loop: a symbolic link that leads back to itself; remove it"):
        write_atomically(tmp_path / "loop", b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "loop"]


def test_a_write_replaces_the_temporary_file_of_a_killed_process(tmp_path):
    (tmp_path / ".file.part").write_bytes(b"what a killed process had written, which is longer")
    write_atomically(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    """The second writer begins when the first has renamed its temporary file."""
    part = tmp_path / ".file.part"
    with part.open("wb") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=write_atomically, args=(tmp_path / "file", b"second"))
        second.start()
        first.write(b"first")
        first.flush()
        second.join(timeout=0.2)
        assert second.is_alive()
        os.replace(part, tmp_path / "file")
        moved = os.open(tmp_path / "file", os.O_RDONLY)
    second.join(timeout=60)
    assert os.read(moved, 99) == b"first"
    os.close(moved)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"second")]


def test_a_file_system_without_locks_can_be_written(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write_atomically(tmp_path / "file", b"new")
    with locked_folder(tmp_path / "folder"):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_locked_folder_refuses_a_second_process_and_interrupted_work_leaves_the_lock_file(tmp_path):
    folder = tmp_path / "folder"
    with locked_folder(folder):
        with (
            pytest.raises(VocabridgeError, match=r"another process is at work in .*folder; wait"),
            locked_folder(folder),
        ):
            pass
        assert (folder / LOCK).exists()
    assert not folder.exists()
    with contextlib.suppress(KeyboardInterrupt), locked_folder(folder):
        (folder / "begun").touch()
        raise KeyboardInterrupt
    assert sorted(os.listdir(folder)) == [LOCK, "begun"]
    with locked_folder(folder):
        (folder / LOCK).unlink()
    assert os.listdir(folder) == ["begun"]


def test_a_new_folder_is_complete_or_absent(tmp_path):
    (tmp_path / ".place.part").mkdir()
    (tmp_path / ".place.part" / "of a killed process").touch()
    with contextlib.suppress(KeyboardInterrupt), new_folder(tmp_path / "place") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with new_folder(tmp_path / "place") as folder:
        (folder / "all").touch()
        assert not (tmp_path / "place").exists()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["place", "place/all"]
