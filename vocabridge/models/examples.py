"""(prompt, response) examples as JSONL: one object a line, with the strings `prompt` and `response`.

A model reads `prompt + response`, without a chat template and with nothing in between, so the file decides about the
white space between them. A task scores generations against `answer`, if an example has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.utils.jsonl import Record, read_records


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        prompt: The text in front of the response.
        response: The text that is learned or scored; never empty.
        answer: The final answer that a generation is scored against, if the task has one.
        id: The item's name in reports; by default its line number.
        template: The name of a group of similar items, which are resampled together; by default the item's id.
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
    """Read a JSONL file of examples.

    Args:
        path: The file.
        limit: Keep only the first `limit` examples.

    Raises:
        VocabridgeError: The file is missing, is not UTF-8 or holds no example, or a line is not an object
            with a non-empty string `prompt` and a non-empty string `response`; the message names the line.
    """
    return [as_example(record) for record in read_records(path)][:limit]


def as_example(record: Record) -> Example:
    """Turn a record into an example.

    Raises:
        VocabridgeError: Its `prompt` or `response` is missing, empty or not a string.
    """
    prompt, response = record.string("prompt"), record.string("response")
    if not prompt or not response:
        raise VocabridgeError(f"{record.where}, has an empty prompt or response; fill it or remove the line")
    answer, id_ = record.fields.get("answer"), str(record.fields.get("id", record.number))
    return Example(
        prompt=prompt,
        response=response,
        answer=None if answer is None else str(answer),
        id=id_,
        template=str(record.fields.get("template", id_)),
    )


@dataclass(frozen=True)
class TokenizedExample:
    """An example in the tokens of one model, with prompt and response tokenized as one text.

    Attributes:
        ids: All ids, with the bos token in front if the model expects one.
        first: Index of the first token of the response: the first that ends after the prompt's last byte.
    """

    ids: list[int]
    first: int


def tokenize(example: Example, vocabulary: Vocabulary) -> TokenizedExample:
    """Encode prompt and response as one text, with the model's own tokenizer."""
    encoding = vocabulary.encode_prompt(example.text)
    ids = encoding.ids.tolist()
    bos = vocabulary.bos_ids
    ends = [*encoding.starts[1:].tolist(), len(example.text.encode())]
    prompt_bytes = len(example.prompt.encode())
    first = next(i for i, end in enumerate(ends) if end > prompt_bytes)
    return TokenizedExample(ids=bos + ids, first=len(bos) + first)


def tokenize_scored(example: Example, vocabulary: Vocabulary) -> TokenizedExample:
    """Tokenize an example whose whole response is scored, which needs a token before the response's first.

    Raises:
        VocabridgeError: The model expects no bos token, and the text's first token ends in the response.
    """
    tokens = tokenize(example, vocabulary)
    if tokens.first == 0:
        raise VocabridgeError(
            f"the prompt {example.prompt!r} of item {example.id} is shorter than the first token of {vocabulary.name}, "
            "so nothing predicts the beginning of the response; give a longer prompt"
        )
    return tokens
