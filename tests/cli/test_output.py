"""Piped output: tables have a bounded width, and long work prints its progress every few seconds."""

import re
import subprocess
import sys
import time

import pytest

from vocabridge.cli import _output as output

LONG = "word " * 60


@pytest.fixture
def quick(monkeypatch):
    """Print progress 10 times a second, on a console of this test's stderr."""
    monkeypatch.setattr(output, "PROGRESS_SECONDS", 0.1)
    output.stderr.cache_clear()
    yield
    output.stderr.cache_clear()


@pytest.mark.parametrize(("columns", "width"), [(None, 120), ("80", 80), ("200", 200), ("0", 120), ("wide", 120)])
def test_a_piped_table_is_at_most_as_wide_as_columns_or_120(capsys, monkeypatch, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    output.print_table(LONG, ("", "one", "two"), [("a", LONG, LONG), ("b" * 300, "", "")])
    output.print_facts("short", {"name": LONG})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width * 0.9


def test_a_path_in_a_piped_title_is_not_broken(capsys):
    path = "/folder" * 40
    output.print_facts(f"value network in {path}", {"a": "b"})
    assert path in capsys.readouterr().out


def test_long_work_without_a_terminal_prints_a_line_every_few_seconds(capsys, quick):
    with output.progress("loading a model") as update:
        time.sleep(0.35)
        update(1, 1_200, "reading")
        time.sleep(0.35)
        update(1_200, 1_200, "reading")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "loading a model"
    assert lines[1] == "0:00:00 loading a model"
    assert re.fullmatch(r"0:00:0\d reading: 1 of 1,200 \(0%\)", lines[-1])
    assert len(lines) >= 4


def test_work_that_ends_with_an_error_prints_no_more_progress(capsys, quick):
    with pytest.raises(RuntimeError), output.progress("loading a model"):
        raise RuntimeError
    capsys.readouterr()
    time.sleep(0.25)
    assert capsys.readouterr().err == ""


def test_a_command_with_piped_output_prints_its_progress(tokenizer_folders, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The dogs watch 12 lazy foxes; cafés über 東京 🙂.\n" * 160_000, encoding="utf-8")
    script = "from vocabridge.cli import _output as output, main\noutput.PROGRESS_SECONDS = 0.02\nmain()"
    arguments = ("align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", text)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    begun, *lines = done.stderr.splitlines()
    assert begun.startswith("aligning ")
    timed = [line for line in lines if re.match(r"0:0\d:\d\d aligning .* of .*%\)$", line)]
    assert timed, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120
