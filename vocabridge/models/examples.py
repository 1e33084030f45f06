"""(prompt, response) examples as JSONL: one object a line, with the strings `prompt` and `response`.

The text that a model reads is `prompt + response`, nothing in between and no chat template: what the prompt
ends with and the response starts with is the user's choice. `answer`, where present, is what a task scores.
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
            with a non-empty string `prompt` and a non-empty string `response`; the message names the line.
    """
    return [as_example(record) for record in read_records(path)][:limit]


def as_example(record: Record) -> Example:
    """Takes a record as an example.

    Raises:
        VocabridgeError: It has no non-empty string `prompt` and `response`.
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
    """An example in the tokens of one model, tokenised as one text.

    Attributes:
        ids: All ids, the bos token in front where the model expects one.
        first: Index of the first token of the response: the first that ends behind the prompt's last byte.
    """

    ids: list[int]
    first: int


def tokenize(example: Example, vocabulary: Vocabulary) -> TokenizedExample:
    """Encodes prompt and response as one text, as the model's own tokenizer does."""
    encoding = vocabulary.encode_prompt(example.text)
    ids = encoding.ids.tolist()
    begin = vocabulary.bos_ids
    ends = [*encoding.starts[1:].tolist(), len(example.text.encode())]
    prompt_bytes = len(example.prompt.encode())
    first = next(i for i, end in enumerate(ends) if end > prompt_bytes)
    return TokenizedExample(ids=begin + ids, first=len(begin) + first)


def tokenize_scored(example: Example, vocabulary: Vocabulary) -> TokenizedExample:
    """Tokenize an example whose whole response is scored, so that something stands before its first token.

    Raises:
        VocabridgeError: The text's first token begins in the prompt and ends in the response, and no bos token stands
            before it.
    """
    tokens = tokenize(example, vocabulary)
    if tokens.first == 0:
        raise VocabridgeError(
            f"the prompt {example.prompt!r} of item {example.id} is shorter than the first token of {vocabulary.name}, "
            "so that nothing predicts the beginning of the response; give a longer prompt"
        )
    return tokens
