"""Runs commands and keeps what a kill would leave of their files, at every file-system call that they make.

`CrashStates` is the test's side. It starts this file as a server, which imports what commands import, computes nothing
and forks a child for each command, because an import takes longer than a command. A child that records copies its
folder in front of every call that opens a file to write, renames, removes, makes a folder or syncs. Such a copy is
what a process that is killed there leaves on the disk: buffers that are not flushed are not in it, and no `finally` has
run. In front of a sync there is a second copy, in which the second half of the file is missing.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MODULES = (
    *("vocabridge.cli.app", "vocabridge.folder", "vocabridge.training", "vocabridge.evaluation", "vocabridge.report"),
    *("vocabridge.audit_page", "vocabridge.loading", "peft", "accelerate", "safetensors.torch"),
    *("transformers.models.llama.modeling_llama", "transformers.models.gemma3.modeling_gemma3", "rich.progress"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "rich.table", "torch.optim", "torch.utils.data", "gguf"),
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


class CrashStates:
    """Runs commands, and what they do from every state that a kill leaves."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )

    def close(self) -> None:
        self._server.communicate(timeout=60)

    def run(self, folder: Path, arguments: tuple[object, ...], record: Path | None = None) -> Done:
        """Runs a command in a folder; its cache is `cache` there."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = [str(folder), [*map(str, arguments)], None if record is None else str(record), str(self._scratch)]
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Done(*json.loads(self._server.stdout.readline()))

    def of(self, folder: Path, arguments: tuple[object, ...]) -> list[Path]:
        """Runs a command to its end; the states, in order and each once, that kills would have left."""
        record = self._scratch / f"{folder.name}.states"
        done = self.run(folder, arguments, record)
        assert done.status == 0, done.stderr
        return sorted(record.iterdir(), key=lambda path: int(path.name))


def put_back(state: Path, folder: Path) -> None:
    """Makes a folder what it was in a state."""
    shutil.rmtree(folder)
    shutil.copytree(state, folder, symlinks=True)


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder: digests of files, by their paths."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


class _Recorder:
    """Copies a folder in front of every call that changes files."""

    def __init__(self, folder: Path, record: Path) -> None:
        self._folder, self._record, self._copies, self._busy = folder, record, 0, False
        self._seen: list[dict[str, str]] = []
        record.mkdir()
        sync = os.fsync

        def torn(descriptor: int) -> None:
            self._copy()
            self._copy(torn=os.fstat(descriptor).st_ino)
            sync(descriptor)

        os.fsync = torn
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            self._copy()

    def _copy(self, torn: int | None = None) -> None:
        if self._busy:
            return
        self._busy = True
        now, place = contents(self._folder), self._record / str(self._copies)
        if torn is not None or now not in self._seen:
            self._seen.append(now)
            self._copies += 1
            shutil.copytree(self._folder, place, symlinks=True)
            for path in self._folder.rglob("*") if torn else ():
                if path.stat().st_ino == torn:
                    os.truncate(place / path.relative_to(self._folder), path.stat().st_size // 2)
        self._busy = False


def _forked(work: Callable[[], None], scratch: Path) -> Done:
    """What a child says and how it ends."""
    paths = [scratch / f"{name}-{os.getpid()}" for name in ("stdout", "stderr")]
    child = os.fork()
    if child == 0:
        status = 70
        try:
            for number, path in enumerate(paths, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            status = 0
            work()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            status = 70
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return Done(os.waitstatus_to_exitcode(ended), *(path.read_text(errors="replace") for path in paths))


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    for module in _MODULES:
        importlib.import_module(module)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from vocabridge.cli.app import main

    get_checkpoint_conversion_mapping("llama")  # compiles its expressions once
    gc.collect()
    gc.freeze()  # what is imported is never looked through again

    for line in sys.stdin:
        folder, arguments, record, scratch = json.loads(line)

        def work(
            folder: str = folder, arguments: list[str] = arguments, record: str | None = record
        ) -> None:  # bound now: the loop goes on
            os.chdir(folder)
            os.environ["VOCABRIDGE_CACHE"] = str(Path(folder) / "cache")
            sys.argv[:] = ["vocabridge", *arguments]
            if record is not None:
                _Recorder(Path(folder), Path(record))
            main()

        done = _forked(work, Path(scratch))
        answers.write(json.dumps([done.status, done.stdout, done.stderr]) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
