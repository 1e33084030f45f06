r"""Which control tokens open and end a message, read off the tokenizer's own chat template and never off names.

The template is rendered with made-up messages, "user, assistant, user"; the control tokens between two of them are
those that end the one and open the other:

    ... assistant's words <|im_end|>\n<|im_start|>user\n user's words ...       ChatML: turn end, turn begin
    ... words <|eot_id|><|start_header_id|>user<|end_header_id|>\n\n words ...   Llama-3: turn content too

A template is a program of a stranger: it runs in a process of its own, with limits (`template_renderer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vocabridge.alignment.tokenizers.template_renderer import TemplateError, render

_SPEAKERS = ("user", "assistant", "user")
_WORDS = ("firstquestion", "firstanswer", "secondquestion")


def chat_roles(template: str, variables: Mapping[str, str], controls: Callable[[str], Sequence[int]]) -> dict[str, int]:
    """Find the control tokens of messages.

    Args:
        template: The Jinja chat template.
        variables: What it may refer to: bos_token, eos_token and so on.
        controls: The ids of the control tokens in a text, in order.

    Returns:
        Those that this template has of "turn begin", which opens a message, "turn content", which stands between its
        speaker's name and its words, and "turn end". The first two are only there where users' and assistants'
        messages have the same.

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
