r"""The control tokens that open and end a message, found with the tokenizer's own chat template and not by name.

The template is rendered with made-up messages of user, assistant and user. The control tokens between two messages end
the first and open the second:

    ... assistant's words <|im_end|>\n<|im_start|>user\n user's words ...       ChatML: turn end, turn begin
    ... words <|eot_id|><|start_header_id|>user<|end_header_id|>\n\n words ...   Llama-3: turn content, too

A template is untrusted code, so it runs in a process of its own with limits (`template_renderer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vocabridge.alignment.tokenizers.template_renderer import TemplateError, render

_ROLES = ("user", "assistant", "user")
_TEXTS = ("firstquestion", "firstanswer", "secondquestion")


def chat_roles(template: str, variables: Mapping[str, str], controls: Callable[[str], Sequence[int]]) -> dict[str, int]:
    """Find the control tokens that a chat template puts around messages.

    Args:
        template: The Jinja chat template.
        variables: The variables that the template may use: bos_token, eos_token and so on.
        controls: Returns the ids of the control tokens in a text, in order.

    Returns:
        Role -> id of the tokens that the template uses: "turn begin", which opens a message; "turn content", which
        separates the role of its author from its text; and "turn end". The first two are included only if the messages
        of users and assistants have the same ones.

    Raises:
        TemplateError: The template fails, takes too long, writes too much, or changes the text of messages.
    """
    question, answer, second = ({"role": r, "content": c} for r, c in zip(_ROLES, _TEXTS, strict=True))
    head, to_answer, to_question, _ = map(controls, _cut(render(template, variables, [question, answer, second])))
    tail = controls(_cut(render(template, variables, [question, answer]))[-1])
    roles: dict[str, int] = {}
    # The token after an answer ends it, unless the same token opens the first message: then it opens the next one.
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
    """Return what a rendered conversation has before, between and after the texts of the messages."""
    pieces = []
    for message in _TEXTS:
        before, separator, after = text.partition(message)
        if not separator:
            break
        pieces.append(before)
        text = after
    if len(pieces) < 2:
        raise TemplateError("it does not write the messages")
    return [*pieces, text]
