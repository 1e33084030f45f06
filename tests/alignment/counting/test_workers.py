"""Interrupts while counting processes start."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from vocabridge.alignment.counting import workers


def test_an_interrupt_while_processes_start_is_raised_once_they_have_started(monkeypatch):
    monkeypatch.setattr(workers.resource_tracker, "ensure_running", lambda: None)
    outputs = []
    child = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"

    @workers._interrupts_held_back()
    def start():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        outputs.append(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert outputs == ["goes on\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_interrupt_while_align_starts_processes_is_raised(tokenizer_folders, tmp_path):
    (tmp_path / "text.txt").write_text("The quick brown fox. " * 9)
    code = f"""
import os, signal, threading
from multiprocessing.context import SpawnProcess
from vocabridge.alignment import align
start = SpawnProcess.start
def interrupted(self):
    start(self)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
SpawnProcess.start = interrupted
if __name__ == "__main__":
    try:
        align({str(tokenizer_folders.source)!r}, {str(tokenizer_folders.target)!r}, method="cooccurrence",
              corpus=[{str(tmp_path / "text.txt")!r}], jobs=2, cache=False)
    except KeyboardInterrupt:
        print("interrupted")
"""
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)
