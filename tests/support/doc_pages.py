"""The pages of the documentation, and what is in them: blocks of code, commands, tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The lines of shell blocks that run vocabridge, whole: a backslash at the end of a line continues it."""
    shell = "".join([*blocks(text, "sh"), *(f"{line[4:]}\n" for line in re.findall(r"^ {4}.*$", text, re.MULTILINE))])
    lines = re.sub(r"\\\n\s*", " ", shell).splitlines()
    found = [re.search(r"^(?:torchrun .* )?(vocabridge [a-z].*)$", line) for line in lines]
    return [re.sub(r"\s+(#|<|\|).*$", "", match[1]) for match in found if match]


def tables(text: str) -> list[list[str]]:
    """The rows of each table."""
    found = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    return [table.splitlines() for table in found]


def cells(row: str) -> list[str]:
    """The cells of a row."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]
