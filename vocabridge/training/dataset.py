"""Training texts: a model's tokens, and which of them it learns. Records become texts, texts are held out and packed.

    {"prompt": ..., "response": ...}                     prompt + response + end token; learned from the response on
    {"messages": [{"role": ..., "content": ...}, ...]}   as the model's chat template writes them; what the assistant
                                                         says is learned, and the token that ends its turn
    {"text": ...}                                        text + end token; all of it is learned

The first token of a text is never learned: nothing predicts it. The bos token stands in front of a text once, where
the model expects it; the end token is the first of `end_tokens`, where the model has one.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.examples import as_example, tokenize
from vocabridge.models.prompts import prompt_ids
from vocabridge.utils.jsonl import Record, checked_string, read_records


@dataclass(frozen=True)
class Side:
    """A training text in the tokens of a base of another tokenizer.

    Attributes:
        ids: All ids.
        learns: Whether each of them is learned.
        behind: For each the index of the value network's token with which it has read just as far; -1 where none is.
    """

    ids: list[int]
    learns: list[bool]
    behind: list[int]


@dataclass(frozen=True)
class TrainingText:
    """One sequence of a model's tokens: a text, or several that are packed.

    Attributes:
        ids: All ids.
        learns: Whether each of them is learned; the first of every text never is.
        starts: Where in the sequence each of its texts starts; (0,) if it is one.
        sides: The same in the tokens of other bases, one for each that has another tokenizer.
    """

    ids: list[int]
    learns: list[bool]
    starts: tuple[int, ...] = (0,)
    sides: tuple[Side, ...] = ()

    @property
    def positions(self) -> list[int]:
        """The place of every token in its own text, from 0.

        As `position_ids` they keep every text to itself in transformers: a token attends to those from the last
        place at which positions do not go up by 1 (`find_packed_sequence_indices` of `masking_utils`). That is so
        with eager, sdpa and flex attention, where `attention_mask` is None and there is no cache (`use_cache=False`);
        with flash attention for batches of one row only. Padding on the right needs no mask: no text sees what is
        behind it.
        """
        ends = (*self.starts[1:], len(self.ids))
        return [place for start, end in zip(self.starts, ends, strict=True) for place in range(end - start)]


def load_training_texts(
    source: str | Path, vocabulary: Vocabulary, *, max_length: int, model: PreTrainedModel | None = None
) -> list[TrainingText]:
    """Reads records and writes each in a model's tokens.

    Args:
        source: A JSONL file, a folder of them, or hf:owner/name[:config]/split; see `records`. All records of a file
            are of one kind.
        vocabulary: The model's.
        max_length: Longest text in tokens; longer ones are an error, never cut.
        model: The model, whose generation configuration may name further end tokens (`end_tokens`).

    Returns:
        One text a record, in order.

    Raises:
        VocabridgeError: The source cannot be read, or a record cannot be learned from: it is of no kind or of another
            than its file's first, lacks a field, has an empty text, response or assistant's message or no
            assistant's message at all, does not suit the chat template or there is none, or is too long. The
            message names file and line.
    """
    texts, kinds = [], dict[str, str]()
    for record in read_records(source):
        kind = _kind(record)
        if kind != kinds.setdefault(record.source, kind):
            raise VocabridgeError(
                f'{record.where}, has "{kind}" where the first record has "{kinds[record.source]}"; give each kind a '
                "file of its own"
            )
        text = _KINDS[kind](record, vocabulary, end_tokens(vocabulary, model, chat=kind == "messages"))
        if len(text.ids) > max_length:
            raise VocabridgeError(
                f"{record.where}, has {len(text.ids)} tokens, more than the limit of {max_length}; raise the limit or "
                "remove the record"
            )
        if not any(text.learns):
            raise VocabridgeError(f"{record.where}, has no token that another predicts; remove the record")
        texts.append(text)
    return texts


def split(texts: Sequence[TrainingText], share: float, seed: int) -> tuple[list[TrainingText], list[TrainingText]]:
    """Holds out some texts for validation, before any are packed.

    The side of a text depends on its tokens, the seed and the share alone, not on what else is there: a text is held
    out if the SHA-256 of seed and ids, as a fraction of all hashes, is below the share.

    Args:
        texts: The texts.
        share: About how much of them to hold out, between 0 and 1.
        seed: Another seed, another choice.

    Returns:
        Those to train on and those held out, each in order.

    Raises:
        VocabridgeError: A side would be empty.
    """
    sides: tuple[list[TrainingText], list[TrainingText]] = ([], [])
    for text in texts:
        digest = hashlib.sha256(f"{seed}:".encode() + np.array(text.ids, "<i4").tobytes())
        sides[int.from_bytes(digest.digest(), "big") < share * 2**256].append(text)
    if not all(sides):
        raise VocabridgeError(
            f"a share of {share:g} holds out {len(sides[1])} of {len(texts)} texts; choose another share or seed, or "
            "name a file to validate on"
        )
    return sides


def pack(texts: Sequence[TrainingText], max_length: int) -> list[TrainingText]:
    """Puts several texts in one sequence, the longest first, each where it fits best.

    Args:
        texts: The texts, none longer than `max_length`.
        max_length: Longest sequence in tokens.

    Returns:
        Sequences that hold every text once, the same for the same texts in the same order.
    """
    bins: list[list[TrainingText]] = []
    room: list[tuple[int, int]] = []  # what is left of each bin, ascending
    for text in sorted(texts, key=lambda text: -len(text.ids)):
        best = bisect.bisect_left(room, (len(text.ids), 0))
        left, index = room.pop(best) if best < len(room) else (max_length, len(bins))
        if index == len(bins):
            bins.append([])
        bins[index].append(text)
        bisect.insort(room, (left - len(text.ids), index))
    return [_joined(several) for several in bins]


def _joined(texts: Sequence[TrainingText]) -> TrainingText:
    ids: list[int] = []
    learns: list[bool] = []
    starts: list[int] = []
    for text in texts:
        starts += [len(ids) + start for start in text.starts]
        ids += text.ids
        learns += text.learns
    return TrainingText(ids, learns, tuple(starts))


def _kind(record: Record) -> str:
    for kind in _KINDS:
        if record.fields.get(kind) is not None:
            return kind
    raise VocabridgeError(f'{record.where}, has neither "prompt" and "response" nor "messages" nor "text"; add them')


def _from_example(record: Record, vocabulary: Vocabulary, ends: Sequence[int]) -> TrainingText:
    tokens = tokenize(as_example(record), vocabulary)
    return _ended(tokens.ids, tokens.first, ends)


def _from_plain_text(record: Record, vocabulary: Vocabulary, ends: Sequence[int]) -> TrainingText:
    text = record.string("text")
    if not text:
        raise VocabridgeError(f'{record.where}, has an empty "text"; fill it or remove the line')
    return _ended(prompt_ids(vocabulary, text), 1, ends)


def _ended(ids: list[int], first: int, ends: Sequence[int]) -> TrainingText:
    """Tokens that are learned from the first on, and behind them the first end token, if none is there."""
    if ends and not set(ids[-1:]) & set(ends):
        ids = [*ids, ends[0]]
    first = max(first, 1)
    return TrainingText(ids, [i >= first for i in range(len(ids))])


def _from_chat(record: Record, vocabulary: Vocabulary, ends: Sequence[int]) -> TrainingText:
    messages = _messages(record)
    text = _rendered(messages, record, vocabulary)
    encoding = vocabulary.encode_prompt(text)
    ids = encoding.ids.tolist()
    # A token without a start of its own is of the same character as the one before it.
    starts = np.maximum.accumulate(encoding.starts)
    stops = np.append(starts, len(text.encode()))[np.searchsorted(starts, starts, side="right")]
    learns = np.zeros(len(ids), bool)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            first, last = _words(messages, turn, text, record, vocabulary)
            learns |= (stops > first) & (starts < last)
            behind = int(np.searchsorted(starts, last))
            learns[behind : _turn_end(ids, behind, vocabulary, ends)] = True
    begin = vocabulary.bos_ids
    if ids[: len(begin)] != begin:
        ids, learns = begin + ids, np.append(np.zeros(len(begin), bool), learns)
    learns[:1] = False
    return TrainingText(ids, learns.tolist())


def _messages(record: Record) -> list[dict[str, str]]:
    """The messages of a record, each with no more than a role and its content."""
    given = record.fields["messages"]
    if not isinstance(given, list) or not all(isinstance(message, Mapping) for message in given):
        raise VocabridgeError(f'{record.where}, has "messages" that are no list of objects; correct that line')
    messages = []
    for number, message in enumerate(given, start=1):
        where = f"{record.where}, message {number}"
        messages.append({name: checked_string(message, name, where) for name in ("role", "content")})
        if messages[-1] == {"role": "assistant", "content": ""}:
            raise VocabridgeError(f"{where}, is an assistant's and empty; fill it or remove the line")
    if not any(message["role"] == "assistant" for message in messages):
        raise VocabridgeError(f"{record.where}, has no message of the assistant to learn from; remove the line")
    return messages


def _rendered(messages: Sequence[Mapping[str, Any]], record: Record, vocabulary: Vocabulary) -> str:
    try:
        return vocabulary.render(messages, add_generation_prompt=False)
    except VocabridgeError as error:
        raise VocabridgeError(f"{record.where}: {error}") from error


def _words(
    messages: Sequence[Mapping[str, str]], turn: int, text: str, record: Record, vocabulary: Vocabulary
) -> tuple[int, int]:
    """The bytes of a rendered conversation, from and to, that are the words of one message.

    They are what changes if the words are others. Two others, that begin and end unlike each other, leave no doubt
    where the words begin and end, whatever they are, stand elsewhere too, or lose to the template.
    """
    others = [
        _rendered([*messages[:turn], {**messages[turn], "content": words}, *messages[turn + 1 :]], record, vocabulary)
        for words in ("a", "b")
    ]
    if others[0] == others[1]:
        raise VocabridgeError(
            f"{record.where}: the chat template of {vocabulary.name} leaves out message {turn + 1}; remove the line"
        )
    before = _shared(text, *others)
    behind = len(text) - _shared(*(one[::-1] for one in (text, *others)))
    return len(text[:before].encode()), len(text[:behind].encode())


def _shared(*texts: str) -> int:
    """How many characters the texts have in common at their beginning."""
    unlike = (at for at, several in enumerate(zip(*texts, strict=False)) if len(set(several)) > 1)
    return next(unlike, min(map(len, texts)))


def _turn_end(ids: Sequence[int], behind: int, vocabulary: Vocabulary, ends: Sequence[int]) -> int:
    """Where a turn is over: behind the token that ends it and white space before that; else where its words end."""
    at = behind
    while at < len(ids) and (vocabulary.token_bytes[ids[at]] or b"").isspace():
        at += 1
    return at + 1 if at < len(ids) and ids[at] in ends else behind


_KINDS = {"messages": _from_chat, "prompt": _from_example, "text": _from_plain_text}
"""What makes a text of a record that has such a field; the first that it has counts."""
