"""A command in a child of the server behaves like a command in a process of its own."""

import os
import signal
import subprocess

import pytest


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("--help", 0), ("align --help", 0), ("cache list --json", 0), ("frobnicate", 2), ("inspect text.txt", 1)],
)
def test_a_child_prints_and_ends_like_a_process(run, entry_point, text, arguments, status):
    child = run(*arguments.split())
    process = subprocess.run([entry_point, *arguments.split()], cwd=text.parent, capture_output=True, text=True)
    assert (child.returncode, child.stdout, child.stderr) == (process.returncode, process.stdout, process.stderr)
    assert child.returncode == status


def test_a_command_with_another_environment_runs_in_a_process_of_its_own(command_server):
    same = command_server.environment()
    assert command_server.can_run(command_server.environment(VOCABRIDGE_CACHE="elsewhere", COLUMNS="40"))
    assert not command_server.can_run(command_server.environment(HF_HUB_OFFLINE="1"))
    without = {name: value for name, value in same.items() if name != "PATH"}
    assert not command_server.can_run(without)


@pytest.fixture
def waiting(command_server, tmp_path):
    """Start `vocabridge generate`, which waits for its prompt on stdin, and return it with the file of its stderr."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb"), (tmp_path / "err").open("w+b") as err:
        arguments = ["generate", str(tmp_path)]
        files = (stdin, err, err)
        with command_server.start(arguments, cwd=tmp_path, env=command_server.environment(), files=files) as child:
            yield child, err


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGABRT])
def test_the_signal_that_ends_a_child_is_its_status(waiting, which):
    child, _ = waiting
    child.send_signal(which)
    assert child.wait(60) == -which


def test_waiting_for_a_child_ends_at_its_timeout(waiting):
    child, _ = waiting
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.1)


def test_children_run_at_the_same_time(run, waiting):
    assert run("--help").returncode == 0
    child, _ = waiting
    assert child.returncode is None
