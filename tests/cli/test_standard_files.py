"""A closed stdin, stdout or stderr is an error with one sentence if it is needed, and otherwise ignored."""

import subprocess

import pytest


def closed(entry_point, number, *arguments, **files):
    """Run a command in a shell that has closed one of its files."""
    command = ["sh", "-c", f'exec "$0" "$@" {number}', entry_point, *arguments]
    return subprocess.run(command, text=True, timeout=120, **files)


def test_a_closed_stdin_is_an_error_if_a_prompt_is_read_from_it(entry_point, tmp_path):
    done = closed(entry_point, "<&-", "generate", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "stdin is closed; give the text itself" in done.stderr


def test_other_commands_ignore_a_closed_stdin(entry_point):
    done = closed(entry_point, "<&-", "cache", "list", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["cache list", "align a b", "--help"])
def test_a_closed_stdout_is_an_error_at_once(entry_point, command):
    done = closed(entry_point, ">&-", *command.split(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "error: stdout is closed; redirect it to a file or to /dev/null\n")


def test_without_stderr_results_are_printed_and_errors_give_a_status(entry_point, tokenizer_folders, tmp_path):
    pair = (
        tokenizer_folders.source,
        tokenizer_folders.target,
        "--method",
        "identical-bytes",
        "--json",
        "-o",
        tmp_path / "pair",
    )
    done = closed(entry_point, "2>&-", "align", *pair, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert '"method": "identical-bytes"' in done.stdout
    inspected = subprocess.run([entry_point, "inspect", tmp_path / "pair"], capture_output=True, timeout=120)
    assert inspected.returncode == 0  # no line for stderr went into the file
    done = closed(entry_point, "2>&-", "inspect", tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert done.returncode == 2
