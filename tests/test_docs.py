"""What README.md and docs/ name is there: modules, files, names in Python, commands with their options."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import typer

import vocabridge
from vocabridge.cli import _app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notes").glob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
COMMANDS = typer.main.get_command(_app.app)


@pytest.fixture(params=PAGES, ids=IDS)
def text(request):
    return request.param.read_text(encoding="utf-8")


def exists(name):
    """Whether a dotted name is a module or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return module.startswith("vocabridge") and hasattr(importlib.import_module(module), attribute)
    return True


def test_every_module_that_is_named_exists(text):
    named = set(re.findall(r"`(vocabridge(?:\.[A-Za-z_]\w*)+)`", text))
    assert [name for name in sorted(named) if not exists(name)] == []


def test_every_file_of_the_repository_that_is_named_exists(text):
    named = set(re.findall(r"\b((?:vocabridge|alignment|cli|data|benchmarks|tests|docs)/[\w./-]+\.\w+)\b", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_code_in_python_is_valid_and_its_names_exist(text):
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("vocabridge"):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vocabridge":
                assert hasattr(vocabridge, node.attr), node.attr


def test_commands_have_the_options_that_they_are_given(text):
    for name, rest in re.findall(r"^ {4}vocabridge (\w+)((?:.*\\\n)*.*)$", text, re.MULTILINE):
        command = COMMANDS.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        given = re.findall(r"(?<=\s)--?[a-z][\w-]*", re.sub(r"\"[^\"]*\"|'[^']*'", "", rest))
        assert [option for option in given if option not in known] == [], f"vocabridge {name}"
