"""The size of what there is to read: files and functions, and the packages that a wheel is made of."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same library, before it became Python's own
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
FOLDERS = {"vocabridge": "vocabridge", "alignment": "vocabridge.alignment", "cli": "vocabridge.cli"}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

MOST_LINES_OF_A_FILE = 350
MOST_LINES_OF_A_FUNCTION = 60
REASON = "# Long because "


def functions(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The names and lines of a file's functions, the line with the name first, where a reason may stand."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, lines[node.lineno - 1 : node.end_lineno]


def test_the_modules_are_found():
    assert len(MODULES) > 150


def test_no_file_is_long_without_a_reason():
    texts = {path: path.read_text(encoding="utf-8") for path in MODULES}
    long = {path: text for path, text in texts.items() if len(text.splitlines()) > MOST_LINES_OF_A_FILE}
    assert [str(path) for path, text in long.items() if not text.startswith(REASON)] == []


def test_no_function_is_long_without_a_reason():
    long = [
        f"{path.relative_to(ROOT)}: {name} has {len(lines)} lines"
        for path in MODULES
        for name, lines in functions(path)
        if len(lines) > MOST_LINES_OF_A_FUNCTION and REASON not in lines[0]
    ]
    assert long == []


def test_no_reason_outlives_what_it_is_a_reason_for():
    reasons = {
        f"{path.relative_to(ROOT)}: {name}": len(lines)
        for path in MODULES
        for name, lines in functions(path)
        if REASON in lines[0]
    }
    assert {name: count for name, count in reasons.items() if count <= MOST_LINES_OF_A_FUNCTION} == {}


def test_a_wheel_is_made_of_every_package():
    """A folder that is a package and is not listed would be missing from the wheel alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    found = {
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in folders.items()
        for path in folder.rglob("__init__.py")
    }
    assert sorted(found) == settings["packages"]
