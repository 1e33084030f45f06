"""(prompt, response) examples as JSONL: one object a line, with the strings `prompt` and `response`.

The text that a model reads is `prompt + response`, nothing in between and no chat template: what the prompt
ends with and the response starts with is the user's choice. `answer`, where present, is what a task scores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.reader import begin_tokens


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        prompt: The text in front of the response.
        response: The text to learn or to be judged on; never empty.
        answer: The final answer that a generation is scored against, where the task has one.
        id: The item's name in reports; its line number where the file gives none.
        template: What the item has in common with others, which are then resampled together; its id if nothing.
    """

    prompt: str
    response: str
    answer: str | None
    id: str
    template: str

    @property
    def text(self) -> str:
        """Prompt and response as one text."""
        return self.prompt + self.response


def load_examples(path: Path, limit: int | None = None) -> list[Example]:
    """Reads a JSONL file of examples.

    Args:
        path: The file.
        limit: Keep only the first `limit` examples.

    Raises:
        VocabridgeError: The file is missing, is not UTF-8 or holds no example, or a line is not an object
            with a string `prompt` and a non-empty string `response`; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a string may hold U+2028
    except FileNotFoundError:
        raise VocabridgeError(f"there is no file {path}; give a JSONL file of prompts and responses") from None
    except UnicodeDecodeError as error:
        raise VocabridgeError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    examples = [_example(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not examples:
        raise VocabridgeError(f"{path} holds no examples; it needs one JSON object with prompt and response a line")
    return examples[:limit]


def _example(line: str, path: Path, number: int) -> Example:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise VocabridgeError(f"{path}, line {number}, is not valid JSON ({error.msg}); correct that line") from None
    if not isinstance(fields, dict):
        raise VocabridgeError(
            f"{path}, line {number}, is not a JSON object with prompt and response; correct that line"
        )
    for name in ("prompt", "response"):
        if not isinstance(fields.get(name), str):
            raise VocabridgeError(f'{path}, line {number}, has no string "{name}"; add it')
        if any("\ud800" <= character <= "\udfff" for character in fields[name]):
            raise VocabridgeError(f'{path}, line {number}, has half a surrogate pair in "{name}"; correct that line')
    if not fields["prompt"] or not fields["response"]:
        raise VocabridgeError(f"{path}, line {number}, has an empty prompt or response; fill it or remove the line")
    answer, id_ = fields.get("answer"), str(fields.get("id", number))
    return Example(
        prompt=fields["prompt"],
        response=fields["response"],
        answer=None if answer is None else str(answer),
        id=id_,
        template=str(fields.get("template", id_)),
    )


@dataclass(frozen=True)
class TokenizedExample:
    """An example in the tokens of one model, tokenised as one text.

    Attributes:
        ids: All ids, the begin token in front where the model expects one.
        first: Index of the first token of the response: the first that ends behind the prompt's last byte.
    """

    ids: list[int]
    first: int


def tokenize(example: Example, vocabulary: Vocabulary) -> TokenizedExample:
    """Encodes prompt and response as one text."""
    encoding = vocabulary.encode(example.text)
    ids = encoding.ids.tolist()
    begin = begin_tokens(vocabulary)
    ends = [*encoding.starts[1:].tolist(), len(example.text.encode())]
    prompt_bytes = len(example.prompt.encode())
    first = next(i for i, end in enumerate(ends) if end > prompt_bytes)
    return TokenizedExample(ids=begin + ids, first=len(begin) + first)
