"""The real entry point, run as a user runs it."""

import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def entry_point() -> Path:
    return Path(sysconfig.get_path("scripts")) / "vocabridge"


@pytest.fixture
def run(entry_point: Path, tmp_path: Path) -> Run:
    def run(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [entry_point, *map(str, arguments)],
            cwd=tmp_path,
            # One thread: for tiny models more of them only wait for each other.
            env=os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in environment.items()},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The dogs watch 12 lazy foxes; cafés über 東京 🙂.\n" * 20, encoding="utf-8")
    return path


@pytest.fixture
def model_pair(model_folders: Any, tmp_path: Path) -> Path:
    """An alignment of the tiny models' tokenizers."""
    from vocabridge.alignment import Vocabulary, align

    path = tmp_path / "models.safetensors"
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(path)
    return path
