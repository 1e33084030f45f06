"""Rendering chat templates in a process of its own, with limits on time, memory and the length of the output.

A chat template is untrusted code. jinja2's sandbox denies it access to files and to Python's internals, but a single
operation can take all memory (`"a"|center(10**11)`) or run forever, and no other thread can stop it.
`template_renderer.py` starts this file as a script. Each line on stdin is a request and each line on stdout the answer,
both as JSON; the process ends when stdin ends. The script imports only jinja2 and the standard library, so it starts in
0.1 s.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from time import process_time
from types import FrameType
from typing import Any, TextIO

if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules could hide others of the same names

from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.0
"""CPU seconds for one request."""

LONGEST = 3
"""CPU seconds after which the system ends the process, for operations that nothing in Python can stop."""

MEMORY = 1 << 29
"""Bytes of memory for the process, including Python itself. Windows has no such limit."""

CHARACTERS = 1 << 20
"""Characters of one rendered conversation at most."""

_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags of transformers that mark generated text and write nothing."""


class _RefusedError(Exception):
    """Raised with the reason why a template cannot be rendered."""


class _OutOfTime(BaseException):
    """Raised in whatever code runs when the time is over; a BaseException, so that no template can catch it."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, which also refuses products and powers that could make huge values before computing them."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return left * right
        raise _RefusedError(f"it uses {operator} on {type(left).__name__}")


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    _limit("RLIMIT_AS", MEMORY)
    for line in sys.stdin:
        _answer(json.loads(line), sys.stdout)


def _answer(request: Mapping[str, Any], out: TextIO) -> None:
    """Write {"text": "..."} with the rendered conversation, or {"error": "it ..."}."""
    try:
        with _limited_time():
            answer = {"text": _render(request)}
    except _OutOfTime:
        answer = {"error": "it takes too long"}
    except MemoryError:
        answer = {"error": "it takes too much memory"}
    except _RefusedError as error:
        answer = {"error": str(error)}
    except Exception as error:  # a template can raise any exception
        answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _render(request: Mapping[str, Any]) -> str:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda layout: datetime.now().strftime(layout)}
    environment.filters["tojson"] = _as_json
    program = environment.from_string(_GENERATION_TAG.sub("", request["template"]))
    given = {"messages": request["messages"], "add_generation_prompt": request["add_generation_prompt"]}
    written, characters = [], 0
    for piece in program.generate(request["variables"] | given | {"tools": None, "documents": None}):
        written.append(piece)
        characters += len(piece)
        if characters > CHARACTERS:
            raise _RefusedError("it writes too much")
    return "".join(written)


def _as_json(value: Any, indent: int | None = None, **layout: Any) -> str:
    """Return a value as JSON, without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, indent=indent, **{"ensure_ascii": False} | layout)


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _limit(name: str, value: int) -> None:
    """Set a limit of the operating system for this process, by its name in the module `resource`."""
    try:
        import resource
    except ImportError:  # Windows
        return
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # the limit is lower already
        resource.setrlimit(kind, (value, hard))


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Raise `_OutOfTime` after `SECONDS` of CPU time, and again after each further `SECONDS`."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    _limit("RLIMIT_CPU", int(process_time()) + LONGEST)
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
