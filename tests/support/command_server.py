"""Runs the command line many times for the price of one import.

A server imports what the commands import, torch and transformers among it, and forks a child for each command. The
child takes the arguments, the environment, the folder and the files 0, 1 and 2 that it is given, calls the entry point
and ends with its status. The server has one thread and computes nothing, so that forking it is safe.

What a library reads from the environment when it is imported has been read. `CommandServer.run` therefore takes only
commands whose environment is the server's, but for the variables in `READ_WHEN_CALLED`; `can_run` tells.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

READ_WHEN_CALLED = frozenset({"COLUMNS", "PYTEST_CURRENT_TEST", "VOCABRIDGE_CACHE", "RECORD_CRASH_STATES"})
"""Variables that no import reads; a command may have others than the server."""

LATE = (
    "accelerate",
    "jinja2.sandbox",
    "peft",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "torch.optim",
    "torch.utils.data",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.llama.modeling_llama",
)
"""What commands import of other packages while they run."""

FORKABLE = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator starts a thread otherwise
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looking for a GPU begins to use it otherwise, and no child could
}
"""The server's own environment, so that its children can go on where it is."""

MESSAGE = 1 << 20

_AT_START = dict(os.environ)


class CommandServer:
    """The test's side: starts the server, and runs commands in children of it.

    Attributes:
        command: An executable named `vocabridge` that does in a child of the server what the entry point does in a
            process of its own, for shells and for `subprocess`. It passes on all open files, SIGINT and SIGTERM.
    """

    def __init__(self, entry_point: Path, folder: Path) -> None:
        # One thread: for tiny models more of them only wait for each other.
        self._environment = dict(_AT_START, OMP_NUM_THREADS="1")
        self._address = folder / "server"
        self.command = folder / "vocabridge"
        self.command.write_text(f"#!{sys.executable} -IS\nADDRESS = {str(self._address)!r}\n{_CLIENT}")
        self.command.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self._address))
        listener.listen(64)
        with listener:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), str(entry_point)],
                env=self._environment | FORKABLE,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """End the server; children that run go on."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def environment(self, **changes: str) -> dict[str, str]:
        """What a command runs in: the environment in which the tests began, with these changes.

        Libraries that a test has used may have set variables of their own; no command sees them.
        """
        own = {name: os.environ[name] for name in READ_WHEN_CALLED & os.environ.keys()}
        return self._environment | own | changes

    def can_run(self, environment: Mapping[str, str]) -> bool:
        """Whether a command with this environment does in a child what it does in a process of its own."""
        return all(
            self._environment.get(name) == environment.get(name)
            for name in (self._environment.keys() | environment.keys()) - READ_WHEN_CALLED
        )

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        input: bytes = b"",  # as in subprocess.run
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `vocabridge ARGUMENTS` as `subprocess.run` does.

        Raises:
            subprocess.TimeoutExpired: It took longer; it is killed.
        """
        with contextlib.ExitStack() as files:
            stdin, stdout, stderr = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            stdin.write(input)
            stdin.seek(0)
            child = files.enter_context(self.start(arguments, cwd=cwd, env=env, files=(stdin, stdout, stderr)))
            status = child.wait(timeout)
            out, err = (_content(file) for file in (stdout, stderr))
        return subprocess.CompletedProcess(["vocabridge", *arguments], status, out, err)

    def start(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], files: Sequence[IO[bytes]]
    ) -> Child:
        """Start a command, the leader of a session of its own, with these files as its stdin, stdout and stderr."""
        if not self.can_run(env):
            raise ValueError("this environment needs a process of its own")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self._address))
        request = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env), "files": [0, 1, 2]}
        socket.send_fds(connection, [json.dumps(request).encode()], [file.fileno() for file in files])
        return Child(connection, list(arguments))


_CLIENT = """
import json, os, signal, socket, sys

files = []
for number in map(int, os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")):
    try:
        os.fstat(number)
    except OSError:  # what listed them
        continue
    files.append(number)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(ADDRESS)
    request = {"arguments": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "files": files}
    socket.send_fds(connection, [json.dumps(request).encode()], files)
    child = int(connection.recv(64))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    for number in files:  # a pipe ends when the child has closed it
        os.close(number)
    status = int(connection.recv(64))
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""
"""Starts at once, as it imports next to nothing."""


class Child:
    """A command that runs; leaving its context kills it if it still does."""

    def __init__(self, connection: socket.socket, arguments: list[str]) -> None:
        self._connection = connection
        self._arguments = arguments
        self.returncode: int | None = None
        self.pid = self._received(60)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
            self.wait(60)
        self._connection.close()

    def send_signal(self, which: signal.Signals) -> None:
        """Send a signal to the command."""
        os.kill(self.pid, which)

    def wait(self, timeout: float) -> int:
        """Return the exit status, as subprocess gives it: -9 of what was killed by signal 9.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            self.returncode = self._received(timeout)
        return self.returncode

    def _received(self, timeout: float) -> int:
        self._connection.settimeout(timeout)
        try:
            message = self._connection.recv(64)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self._arguments, timeout) from None
        if not message:
            raise RuntimeError("the command server has ended; its stderr says why")
        return int(message)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def serve(listener: socket.socket, entry_point: str) -> None:
    """Import what commands import, then fork a child for each request; return in the child, ready to run it.

    The server ends when its standard input does.
    """
    from vocabridge.cli._output import silence_libraries

    silence_libraries()
    _import_everything()
    gc.collect()
    gc.freeze()  # a child's collections leave the pages alone that it shares
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:
            sys.exit()
        connection, _ = listener.accept()
        message, files, *_ = socket.recv_fds(connection, MESSAGE, 64)
        threads = os.listdir("/proc/self/task") if Path("/proc/self/task").is_dir() else ["1"]
        if len(threads) != 1:
            raise RuntimeError(f"the command server has {len(threads)} threads: an import started some")
        if message and os.fork() == 0:
            listener.close()
            _supervise(json.loads(message), files, connection, entry_point)
            return
        connection.close()
        for file in files:
            os.close(file)


def _import_everything() -> None:
    import vocabridge

    for module in pkgutil.walk_packages(vocabridge.__path__, "vocabridge."):
        if not module.name.startswith(
            ("vocabridge.__main__", "vocabridge.evaluation.lm_eval_model", "vocabridge.data.")
        ):
            importlib.import_module(module.name)
    for name in LATE:
        if importlib.util.find_spec(name.split(".")[0]):
            importlib.import_module(name)


def _supervise(request: dict[str, Any], files: list[int], connection: socket.socket, entry_point: str) -> None:
    """Fork once more, and tell the test the child's id and, at its end, its status; return in the child."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        for file in (0, *files):
            os.close(file)
        connection.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(BrokenPipeError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background of a shell
    connection.close()
    lowest = max(request["files"]) + 1  # out of each other's way
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, lowest) for file in files]
    for file in files:
        os.close(file)
    for number, file in zip(request["files"], moved, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [entry_point, *request["arguments"]]
    sys.path[0] = str(Path(entry_point).parent)


def _run() -> NoReturn:
    import crash_states  # here, as processes that a command spawns run this file's top without this folder

    with socket.socket(fileno=int(sys.argv[1])) as listener:
        serve(listener, sys.argv[2])
    from vocabridge.cli import main

    if copies := os.environ.get("RECORD_CRASH_STATES"):
        crash_states.record(Path.cwd(), Path(copies))
    try:
        main()
        status = 0
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        status = end.code
    try:
        _finish()
    except OSError:
        sys.exit(status)  # the interpreter says that it could not write
    os._exit(status)


def _finish() -> None:
    """Do what the interpreter does at its end, but for taking apart every module, which costs more than most commands.

    Raises:
        OSError: Not all that was printed could be written.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    _run()
