"""Build the corpus on which two vocabularies are aligned when the user names no other text.

    pip install --no-deps numpy==2.4.6 scipy==1.17.1 transformers==5.23.0 reasoning-gym==0.1.25 django==5.2.19
    python data/corpus/build.py          # writes prose.txt, code.txt, multilingual.txt, gsm_symbolic.txt

The alignment counts which tokens start at the same byte, so the corpus holds all kinds of text that models read:
English, code, other languages and scripts, and numbers. All of it comes from installed packages with permissive
licenses, which README.md names. The script reads their files, but downloads and imports nothing. gsm_symbolic.txt is
the training split of data/gsm_symbolic; the other splits are never part of the corpus.

The same SEED and the same versions of the packages give the same files.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

SEED = 20242

PROSE_BYTES = 850_000
CODE_BYTES = 450_000
STATIC_BYTES = 120_000
HEADER_BYTES = 60_000
LANGUAGE_BYTES = 13_000
LANGUAGES = [
    "ar",
    "bg",
    "bn",
    "ca",
    "cs",
    "da",
    "de",
    "el",
    "es",
    "et",
    "fa",
    "fi",
    "fr",
    "he",
    "hi",
    "hr",
    "hu",
    "id",
    "is",
    "it",
    "ja",
    "ka",
    "kk",
    "ko",
    "lt",
    "lv",
    "ml",
    "mr",
    "nl",
    "pl",
    "pt_BR",
    "ro",
    "ru",
    "sk",
    "sr",
    "sv",
    "ta",
    "te",
    "th",
    "tr",
    "uk",
    "vi",
    "zh_Hans",
    "zh_Hant",
]

SCIPY_PARTS = (
    "integrate",
    "interpolate",
    "linalg",
    "ndimage",
    "optimize",
    "signal",
    "spatial",
    "sparse",
    "stats",
)


def package(name: str) -> Path:
    """Return the folder of an installed package, without importing the package."""
    for folder in sys.path:
        if (path := Path(folder or ".") / name / "__init__.py").is_file():
            return path.parent
    raise SystemExit(f"error: the package {name} is not installed; see the first lines of {__file__}")


def python_files() -> list[Path]:
    """Return the modules to take prose and code from.

    Tests and vendored code are left out, and so are modules of transformers without an Apache header.
    """
    numpy, scipy, transformers = package("numpy"), package("scipy"), package("transformers")
    files = list(numpy.rglob("*.py"))
    for part in SCIPY_PARTS:
        files += (scipy / part).rglob("*.py")
    files += (
        path
        for path in transformers.rglob("*.py")
        if "Apache License, Version 2.0" in path.read_text(encoding="utf-8")[:2_000]
    )
    unwanted = re.compile(r"/(tests?|testing|_vendored?|_lib|_pyinstaller|conftest\.py|_?version\.py)(/|$)|/test_")
    return sorted(path for path in files if not unwanted.search(path.as_posix()))


def sample(pieces: Iterable[str], budget: int, rng: Random) -> list[str]:
    """Draw distinct pieces of text in random order, as many as fit into a budget of UTF-8 bytes."""
    distinct = list(dict.fromkeys(pieces))
    rng.shuffle(distinct)
    taken, size = [], 0
    for piece in distinct:
        if size + (length := len(piece.encode()) + 1) <= budget:
            taken.append(piece)
            size += length
    return taken


def paragraphs(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a module's docstrings that are English prose, not doctests, tables or parameters."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            text = textwrap.dedent(paragraph).strip()
            plain = sum(character.isalpha() or character in " \n,.'-" for character in text)
            if len(text) >= 120 and plain >= 0.93 * len(text) and not re.search(r">>>|^\s*[-=]{3}|::$", text, re.M):
                yield text


def prose(rng: Random) -> str:
    """Return a short story and documentation."""
    book = (package("reasoning_gym") / "data" / "in_the_year_2889.txt").read_text(encoding="utf-8")
    match = re.search(r"\*\*\* START OF .*? \*\*\*\n(.*)\*\*\* END OF ", book, re.S)
    if match is None:
        raise SystemExit(
            f"error: in_the_year_2889.txt has no known marks around the story; see the versions in {__file__}"
        )
    # Only the public-domain text, without the publisher's notice and license.
    story = match[1].split("End of Project Gutenberg")[0].strip()
    documentation = (paragraph for path in python_files() for paragraph in paragraphs(path))
    return story + "\n\n" + "\n\n".join(sample(documentation, PROSE_BYTES - len(story.encode()), rng)) + "\n"


def code(rng: Random) -> str:
    """Return complete files: Python, C headers, JavaScript, CSS and HTML templates."""
    python = (path.read_text(encoding="utf-8") for path in python_files() if 1_500 < path.stat().st_size < 16_000)
    headers = sorted((package("numpy") / "_core" / "include" / "numpy").glob("*.h"))
    admin = package("django") / "contrib" / "admin"
    static = sorted(
        path
        for path in admin.rglob("*")
        if path.suffix in {".js", ".css", ".html"} and "vendor" not in path.as_posix() and path.stat().st_size > 200
    )
    pieces = sample(python, CODE_BYTES, rng)
    pieces += sample((path.read_text(encoding="utf-8") for path in headers), HEADER_BYTES, rng)
    pieces += sample((path.read_text(encoding="utf-8") for path in static), STATIC_BYTES, rng)
    return "\n".join(pieces)


def translations(path: Path) -> Iterator[str]:
    """Yield the translated messages of a gettext catalog."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        for match in re.finditer(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', block, re.M):
            text = "".join(ast.literal_eval(line) for line in match[1].splitlines())
            if len(text) > 12 and "Project-Id-Version" not in text:
                yield text


def multilingual(rng: Random) -> str:
    """Return translated messages, the same number of bytes for every language."""
    django = package("django")
    parts = []
    for language in LANGUAGES:
        catalogs = sorted(django.rglob(f"locale/{language}/LC_MESSAGES/django.po"))
        parts += sample((text for path in catalogs for text in translations(path)), LANGUAGE_BYTES, rng)
    return "\n".join(parts) + "\n"


def task() -> str:
    """Return the prompts and responses of the sample task's training split."""
    lines = (Path(__file__).parent.parent / "gsm_symbolic" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n\n".join(item["prompt"] + item["response"] for item in map(json.loads, lines)) + "\n"


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description="Build the corpus that ships with vocabridge.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    texts = {
        "prose": prose(Random(SEED)),
        "code": code(Random(SEED)),
        "multilingual": multilingual(Random(SEED)),
        "gsm_symbolic": task(),
    }
    for name, text in texts.items():
        (output / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}.txt: {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
