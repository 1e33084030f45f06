r"""Which control tokens open and end a message, read off the tokenizer's own chat template and never off names.

The template is rendered with made-up messages, "user, assistant, user"; the control tokens between two of them are
those that end the one and open the other:

    ... assistant's words <|im_end|>\n<|im_start|>user\n user's words ...       ChatML: turn end, turn begin
    ... words <|eot_id|><|start_header_id|>user<|end_header_id|>\n\n words ...   Llama-3: turn content too

A template is a program of a stranger: it runs in jinja2's sandbox, with a limit on time and on what it writes. It
sees what it sees in transformers, and writes the same (`render`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from types import FrameType
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

CHAT_ROLES = ("turn begin", "turn content", "turn end")
"""What opens a message, what stands between its speaker's name and its words, and what ends it."""

_SECONDS = 2.0
_CHARACTERS = 1 << 20
_SPEAKERS = ("user", "assistant", "user")
_WORDS = ("firstquestion", "firstanswer", "secondquestion")
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own; marks without writing


class TemplateError(Exception):
    """A chat template that cannot be rendered."""


def chat_roles(template: str, variables: Mapping[str, str], controls: Callable[[str], Sequence[int]]) -> dict[str, int]:
    """Find the control tokens of messages.

    Args:
        template: The Jinja chat template.
        variables: What it may refer to: bos_token, eos_token and so on.
        controls: The ids of the control tokens in a text, in order.

    Returns:
        Those of `CHAT_ROLES` that this template has. "turn begin" and "turn content" are only there where users'
        and assistants' messages have the same.

    Raises:
        TemplateError: It fails, takes too long, writes too much, or changes the messages' words.
    """
    question, answer, second = ({"role": r, "content": c} for r, c in zip(_SPEAKERS, _WORDS, strict=True))
    head, to_answer, to_question, _ = map(controls, _cut(render(template, variables, [question, answer, second])))
    tail = controls(_cut(render(template, variables, [question, answer]))[-1])
    roles: dict[str, int] = {}
    # What follows an answer ends it, unless it only opens the next message, as it opened the first.
    if to_question and tail and (to_question[0] == tail[0] or to_question[0] not in head):
        roles["turn end"] = to_question[0]
        to_question = to_question[1:]
    if to_answer and to_answer[0] == roles.get("turn end"):
        to_answer = to_answer[1:]
    if to_answer and to_question and to_answer[0] == to_question[0]:
        roles["turn begin"] = to_answer[0]
        if to_answer[-1] == to_question[-1] != to_answer[0]:
            roles["turn content"] = to_answer[-1]
    return roles


def _cut(text: str) -> list[str]:
    """Cut a rendered conversation at the messages' words."""
    pieces = []
    for words in _WORDS:
        before, found, after = text.partition(words)
        if not found:
            break
        pieces.append(before)
        text = after
    if len(pieces) < 2:
        raise TemplateError("it does not write the messages")
    return [*pieces, text]


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which products and powers cannot make huge values."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return left * right
        raise TemplateError(f"it uses {operator} on {type(left).__name__}")


def render(
    template: str,
    variables: Mapping[str, str],
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Write a conversation as a template does; the limits hold for loops that write nothing, too.

    Args:
        template: The Jinja chat template.
        variables: What it may refer to: bos_token, eos_token and so on.
        messages: With "role" and "content" each.
        add_generation_prompt: Write the beginning of an assistant's message behind them.

    Raises:
        TemplateError: It fails, takes too long or writes too much.
    """
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda layout: datetime.now().strftime(layout)}
    environment.filters["tojson"] = _as_json
    given = dict(variables, messages=messages, add_generation_prompt=add_generation_prompt, tools=None, documents=None)
    deadline = monotonic() + _SECONDS

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if monotonic() > deadline:
            raise TemplateError("it takes too long")
        return watch

    written, characters = [], 0
    outer = sys.gettrace()
    try:
        program = environment.from_string(_GENERATION_TAG.sub("", template))
        sys.settrace(watch)
        for piece in program.generate(given):
            written.append(piece)
            characters += len(piece)
            if characters > _CHARACTERS:
                raise TemplateError("it writes too much")
    except TemplateError:
        raise
    except Exception as error:  # whatever a stranger's program raises
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    finally:
        sys.settrace(outer)
    return "".join(written)


def _as_json(value: Any, indent: int | None = None, **layout: Any) -> str:
    """Jinja's own filter would escape what HTML does not allow."""
    return json.dumps(value, indent=indent, **{"ensure_ascii": False} | layout)


def _refuse(message: str) -> None:
    raise TemplateError(message)
