"""Renders chat templates in a process of its own, with limits on time, memory and what is written.

A chat template is a program of a stranger. jinja2's sandbox keeps it from files and from Python's insides, but a
single operation of it may take all memory (`"a"|center(10**11)`) or run for ever, and no other thread can stop that.
`chat.py` starts this file as a script; each line on stdin is a request, each line on stdout its answer, both JSON. It
imports jinja2 and the standard library only, so that it starts in a tenth of a second. It ends with its stdin.
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
    del sys.path[0]  # the modules beside this one are not to be taken for others of their names

from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.0
"""Of computing, for one request."""

LONGEST = 3
"""Seconds of computing after which the system ends the process, where nothing in Python can stop an operation."""

MEMORY = 1 << 29
"""Bytes that the process may have, with all that Python itself takes. Windows knows no such limit."""

CHARACTERS = 1 << 20
"""That one conversation may be long."""

_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own; marks without writing


class _RefusedError(Exception):
    """Why a template cannot be rendered."""


class _OutOfTime(BaseException):
    """Raised in the middle of whatever runs; nothing that a template does catches it."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which products and powers that make huge values are refused before they are computed."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return left * right
        raise _RefusedError(f"it uses {operator} on {type(left).__name__}")


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    _limit("RLIMIT_AS", MEMORY)
    for line in sys.stdin:
        _answer(json.loads(line), sys.stdout)


def _answer(request: Mapping[str, Any], out: TextIO) -> None:
    """Write {"text": "..."}, the conversation, or {"error": "it ..."}."""
    try:
        with _limited_time():
            answer = {"text": _render(request)}
    except _OutOfTime:
        answer = {"error": "it takes too long"}
    except MemoryError:
        answer = {"error": "it takes too much memory"}
    except _RefusedError as error:
        answer = {"error": str(error)}
    except Exception as error:  # whatever a stranger's program raises
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
    """Jinja's own filter would escape what HTML does not allow."""
    return json.dumps(value, indent=indent, **{"ensure_ascii": False} | layout)


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _limit(resource: str, most: int) -> None:
    """Have the system hold the process to this much of a resource, by its name in the module of that name."""
    try:
        import resource as limits
    except ImportError:  # Windows
        return
    kind = getattr(limits, resource)
    _, hard = limits.getrlimit(kind)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
        limits.setrlimit(kind, (most, hard))


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Raise `_OutOfTime` after so many seconds of computing, and again while it goes on."""
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
