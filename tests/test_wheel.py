"""The wheel holds every package and all data. An editable install hides what pyproject.toml forgets to list."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "vocabridge": "vocabridge",
    "alignment": "vocabridge/alignment",
    "cli": "vocabridge/cli",
    "data": "vocabridge/data",
}
LIST_DATA = """
import json
from vocabridge.data import VALUE_NETWORKS, corpus_files, task_file
paths = [*corpus_files(), *(task_file(split) for split in ("train", "validation", "test"))]
paths += [path for folder in VALUE_NETWORKS.values() for path in folder.rglob("*") if path.is_file()]
print(json.dumps(sorted(str(path) for path in paths)))
"""


def call(*arguments, cwd, **variables):
    """Run Python, offline; return its stdout."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built of a copy of the sources and installed without dependencies into a folder of its own."""
    pytest.importorskip("setuptools", minversion="77")
    sources, wheels, target = (tmp_path_factory.mktemp(name) for name in ("sources", "wheels", "installed"))
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, sources)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    call("-c", build, cwd=sources)
    (wheel,) = wheels.glob("*.whl")
    call("-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--target", target, wheel, cwd=wheels)
    return target


def test_every_module_is_in_the_wheel(installed):
    modules = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path.relative_to(installed).as_posix() for path in installed.rglob("*.py")} == modules


def test_every_package_is_marked_as_typed(installed):
    assert all((installed / place / "py.typed").is_file() for place in FOLDERS.values())


def test_what_is_installed_finds_the_data_that_ships(installed, tmp_path):
    found = [Path(path) for path in json.loads(call("-c", LIST_DATA, cwd=tmp_path, PYTHONPATH=str(installed)))]
    assert all(path.is_file() for path in found)
    here = [Path(path) for path in json.loads(call("-c", LIST_DATA, cwd=tmp_path))]
    assert len(here) >= 9  # 4 texts, 3 splits, and at least the weights and the settings of a value network
    place = installed / "vocabridge" / "data"
    assert [path.relative_to(place) for path in found] == [path.relative_to(ROOT / "data") for path in here]


def test_the_installed_command_runs_from_another_folder(installed, tmp_path):
    command = installed / "bin" / "vocabridge"
    assert "Usage: vocabridge demo" in call(command, "demo", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
