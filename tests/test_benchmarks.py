"""The benchmarks, which `make test` does not run, still fit the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NOT_HERE = {"genlm": "compare_genlm"}
"""Packages that one benchmark needs and no extra installs."""

IMPORT_ALL = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
missing = {}
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[error.name] = name
print(json.dumps(missing))
"""


def call(*arguments, cwd):
    """Run Python; return its stdout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_benchmark_can_be_imported(tmp_path):
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    missing = json.loads(call("-c", IMPORT_ALL, BENCHMARKS, *names, cwd=tmp_path))
    assert missing.items() <= NOT_HERE.items()


@pytest.mark.quick(0)
def test_the_benchmark_of_projection_methods_runs(tmp_path, model_folders):
    items = [{"prompt": f"The quick brown fox jumps over {n} ", "response": "lazy dogs, and sleeps."} for n in (12, 34)]
    for name in ("data.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    models = ("--base", model_folders.target, "--value", model_folders.tuned, "--untuned", model_folders.source)
    data = ("--data", "data.jsonl", "--validation", "validation.jsonl", "--json", "figures.json")
    ways = ("--ways", "skip:informed", "lookahead:static", "heal:linear")
    call(BENCHMARKS / "compare_methods.py", *models, *data, *ways, cwd=tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [(row["policy"], row["method"], row["what"]) for row in figures["rows"]] == [
        ("skip", "informed", "product"),
        ("skip", "informed", "mixture"),
        ("skip", "informed", "donor"),
        ("lookahead", "static", "product"),
        ("lookahead", "static", "mixture"),
        ("lookahead", "static", "donor"),
        ("heal", "linear", "product"),
    ]
    assert all(row["bits_per_byte"] > 0 for row in figures["rows"])
