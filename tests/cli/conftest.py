"""Fixtures that run the real entry point as a user runs it."""

import contextlib
import io
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_server import CommandServer

PROGRESS = re.compile(r"^\d+:\d\d:\d\d .*\n", re.MULTILINE)
"""A line of progress."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def entry_point() -> Path:
    return Path(sysconfig.get_path("scripts")) / "vocabridge"


@pytest.fixture(scope="session")
def command_server(entry_point: Path) -> Iterator[CommandServer]:
    with (
        tempfile.TemporaryDirectory() as folder,  # its path is short, as the address of a socket has to be
        contextlib.closing(CommandServer(entry_point, Path(folder))) as server,
    ):
        yield server


@pytest.fixture
def run(command_server: CommandServer, entry_point: Path, tmp_path: Path) -> Run:
    """Return a function that runs a command in a child of the server or, with another environment, in a process."""

    def run(*arguments: object, stdin: bytes = b"", **environment: object) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        env = command_server.environment(**{name: str(value) for name, value in environment.items()})
        if command_server.can_run(env):
            done = command_server.run(words, cwd=tmp_path, env=env, input=stdin)
        else:
            done = subprocess.run(
                [entry_point, *words], cwd=tmp_path, env=env, input=stdin, capture_output=True, timeout=300
            )
        errors = PROGRESS.sub("", _text(done.stderr))  # a slow machine prints lines of progress
        return subprocess.CompletedProcess(words, done.returncode, _text(done.stdout), errors)

    return run


def _text(output: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(output)).read()  # as subprocess reads with text=True


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The dogs watch 12 lazy foxes; cafés über 東京 🙂.\n" * 20, encoding="utf-8")
    return path


@pytest.fixture
def model_pair(model_folders: Any, tmp_path: Path) -> Path:
    """Write an alignment of the tiny models' tokenizers."""
    from vocabridge.alignment import Vocabulary, align

    path = tmp_path / "models.safetensors"
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(path)
    return path
