"""Docstrings name modules and what is in them by names that are there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    path: ast.parse(path.read_text("utf-8"))
    for f in ("vocabridge", "alignment", "cli")
    for path in (ROOT / f).rglob("*.py")
}
NO_MODULES = {"json", "tokenizer", "tokenizers", "vocabridge"}
"""What stands before a dot in docstrings and is another library, a key, or the package itself."""

FILES = (".html", ".json", ".jsonl", ".model", ".png", ".py", ".safetensors", ".toml")


def names(tree: ast.Module) -> Iterator[str]:
    """Every name in a module's code."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        for attribute in ("id", "attr", "arg", "asname", "module"):
            if isinstance(value := getattr(node, attribute, None), str):
                yield from value.split(".")
        if isinstance(node, ast.alias):
            yield from node.name.split(".")


IN_CODE = {path: set(names(tree)) for path, tree in MODULES.items()}
IN_MODULE: dict[str, set[str]] = defaultdict(set)
for path in MODULES:
    IN_MODULE[path.stem] |= IN_CODE[path]
    IN_MODULE[path.parent.name].add(path.stem)


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Every text that stands for itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def is_unknown(name: str, path: Path) -> bool:
    """Whether a name with a dot, in a docstring of a module, is neither of that module nor of one of the package."""
    first, second, *_ = name.split(".")
    if first in NO_MODULES | IN_CODE[path] or name.endswith(FILES):
        return False
    return second not in IN_MODULE[first]


def test_names_with_a_dot_in_docstrings_exist():
    unknown = []
    for path, tree in MODULES.items():
        named = re.findall(r"`([a-z_]\w*(?:\.\w+)+)[(`]", "\n".join(docstrings(tree)))
        unknown += [f"{path.relative_to(ROOT)}: {name}" for name in named if is_unknown(name, path)]
    assert unknown == []
