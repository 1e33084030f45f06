r"""A task: items with a prompt and a response, made of a file's fields by templates, and how answers are found.

    {"question": "How much is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}

    --prompt "Question: {question}\nAnswer:" --response " {answer}"

Without templates the fields are `prompt`, `response` and, where a final answer is to be scored, `answer`. An item with
`choices`, possible responses of which `response` is the right one, is also a multiple choice. `reasoning-gym:NAME`,
`reasoning-gym:NAME:SEED` and `reasoning-gym:NAME:SEED:SIZE` make items instead of reading them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vocabridge.alignment import VocabridgeError
from vocabridge.evaluation.answers import Extractor
from vocabridge.models.examples import Example, as_example
from vocabridge.utils.jsonl import Record, data_digest, read_records

_GYM = "reasoning-gym:"
_GYM_SIZE = 100
_FIRST_LINE = r"\A\s*(.+)"


@dataclass(frozen=True)
class Item:
    """An example to be judged on.

    Attributes:
        example: Prompt, response and final answer.
        choices: Possible responses, the right one among them; none where the item is no multiple choice.
    """

    example: Example
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """How a record becomes an item: texts in which `{name}` stands for the record's field of that name.

    Attributes:
        prompt: The prompt.
        response: The response; with a template of its own the final answer is extracted from it.
        extractor: Finds final answers.
    """

    prompt: str = "{prompt}"
    response: str = "{response}"
    extractor: Extractor = field(default_factory=Extractor)

    def item(self, record: Record) -> Item:
        """Makes an item.

        Raises:
            VocabridgeError: A field is missing, the prompt or the response is empty, or the right response is not
                among the choices; the message names the line.
        """
        fields: dict[str, Any] = dict(record.fields)
        if self.prompt != Template.prompt:
            fields["prompt"] = self._filled(self.prompt, record)
        if self.response != Template.response:
            fields["response"] = self._filled(self.response, record)
            fields["answer"] = self.extractor.find(fields["response"])
        example = as_example(replace(record, fields=fields))
        choices = fields.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices):
            raise VocabridgeError(f'{record.where}, has "choices" that are no list of strings; correct it')
        if choices and choices.count(example.response) != 1:
            raise VocabridgeError(f'{record.where}, has not its response once among its "choices"; add it')
        return Item(example, tuple(choices))

    def _filled(self, template: str, record: Record) -> str:
        def value(name: re.Match[str]) -> str:
            if name[1] not in record.fields:
                raise VocabridgeError(f'{record.where}, has no field "{name[1]}" for the template; correct one of them')
            found = record.fields[name[1]]
            return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

        return re.sub(r"\{(\w+)\}", value, template)


@dataclass(frozen=True)
class Task:
    """What contenders are judged on.

    Attributes:
        items: The items.
        extractor: Finds final answers in what they write.
    """

    items: list[Item]
    extractor: Extractor

    @property
    def examples(self) -> list[Example]:
        """Prompts and responses of all items."""
        return [item.example for item in self.items]


def load_task(source: str | Path, template: Template, limit: int | None = None) -> Task:
    """Reads items, or makes them.

    Args:
        source: A JSONL file, or `reasoning-gym:NAME[:SEED[:SIZE]]`.
        template: How a record becomes an item. Of reasoning-gym only its extractor counts; without a pattern the
            answer is the first line.
        limit: Take the first so many.

    Raises:
        VocabridgeError: The source cannot be read, or a record makes no item.
    """
    records = _gym(str(source)) if str(source).startswith(_GYM) else read_records(source)
    if str(source).startswith(_GYM):
        extractor = template.extractor if template.extractor.pattern else Extractor(_FIRST_LINE)
        template = Template("Question: {question}\nAnswer:", " {answer}\n", extractor)
    return Task([template.item(record) for record in records][:limit], template.extractor)


def digest(source: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, or of what reasoning-gym makes here.

    Raises:
        VocabridgeError: The source cannot be read.
    """
    if str(source).startswith(_GYM):
        return hashlib.sha256(json.dumps([dict(record.fields) for record in _gym(str(source))]).encode()).hexdigest()
    return data_digest(source)


def _gym(source: str) -> Sequence[Record]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise VocabridgeError(f"{source} needs reasoning-gym; run: pip install 'vocabridge[data]'") from error
    name, *numbers = source.removeprefix(_GYM).split(":")
    try:
        seed, size = [*map(int, numbers), *(0, _GYM_SIZE)[len(numbers) :]]
        rows = reasoning_gym.create_dataset(name, seed=seed, size=size)
        found = [(row["question"], str(row["answer"])) for row in rows]
    except Exception as error:  # an unknown name, or what a generator of the library asks of its numbers
        raise VocabridgeError(f"{source} cannot be made ({error}); write reasoning-gym:NAME:SEED:SIZE") from error
    return [
        Record(source, number, f"{source}, item {number}", {"question": question, "answer": answer, "id": number})
        for number, (question, answer) in enumerate(found, start=1)
    ]
