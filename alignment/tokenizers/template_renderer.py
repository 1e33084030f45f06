"""Rendering chat templates as transformers does, in a child process with limits (`template_process.py`).

One child renders all templates of this process, one after the other. It starts with the first template and ends with
this process. If it had to be killed during a template, a new child starts with the next one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PROCESS = Path(__file__).with_name("template_process.py")

_SECONDS = 60.0
"""Seconds after which the child is killed. Its own limits on CPU time stop it much earlier, unless it hangs."""


class TemplateError(Exception):
    """A chat template that cannot be rendered."""


def render(
    template: str,
    variables: Mapping[str, str],
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Render a conversation with a chat template.

    Args:
        template: The Jinja chat template.
        variables: The variables that the template may use: bos_token, eos_token and so on.
        messages: The messages, each with "role" and "content"; all their values must be JSON.
        add_generation_prompt: Whether the text ends with the beginning of an assistant's message.

    Raises:
        TemplateError: The template fails, takes too long or too much memory, or writes too much.
    """
    request = {
        "template": template,
        "variables": dict(variables),
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        line = json.dumps(request, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError(f"the messages are not JSON: {error}") from error
    answer = _RENDERER.ask(line)
    if "error" in answer:
        raise TemplateError(answer["error"])
    text: str = answer["text"]
    return text


class _Renderer:
    """The child process, which is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, line: str) -> dict[str, str]:
        """Send a request and return its answer.

        Raises:
            TemplateError: The child cannot be started, or it ended before it answered.
        """
        with self._lock:
            process = self._running()
            watch = threading.Timer(_SECONDS, process.kill)
            watch.daemon = True
            watch.start()
            try:
                answer = _exchange(process, line)
            except BaseException:  # after an interrupt, the answer must not be taken for that of the next request
                self._end()
                raise
            finally:
                watch.cancel()
            if not answer.endswith("\n"):
                self._end()
                raise TemplateError("it takes too long or too much memory")
        parsed: dict[str, str] = json.loads(answer)
        return parsed

    def end(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """Forget the child after a fork, because it belongs to the parent of this process."""
        self._lock = threading.Lock()
        if (process := self._process) is not None:
            process.returncode = 0  # or Popen would wait for it
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, str(_PROCESS)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="ascii",  # JSON escapes all other characters
                )
            except OSError as error:
                raise TemplateError(f"no process can be started for it: {error}") from error
        return self._process

    def _end(self) -> None:
        if (process := self._process) is not None:
            self._process = None
            process.kill()
            with contextlib.suppress(OSError), process:
                pass


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """Write a line and read one; return "" if the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline()


def _plain(value: Any) -> Any:
    """Return a mapping or sequence of any class as a dict or a list, for JSON."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"they hold a value of type {type(value).__name__}")


_RENDERER = _Renderer()
atexit.register(_RENDERER.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RENDERER.forget)
