"""Training texts: records become tokens with a mask of the learned ones; texts are held out for validation and packed.

    {"prompt": ..., "response": ...}                     prompt + response + end token; the response and the end token
                                                         are learned
    {"messages": [{"role": ..., "content": ...}, ...]}   the conversation in the model's chat template; the assistant's
                                                         messages and the tokens that end its turns are learned
    {"text": ...}                                        text + end token; all of it is learned

The first token of a text is never learned because no token predicts it. If the model expects a bos token, a text begins
with one. The end token is the first of `end_tokens`; a model may have none.
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
class AlignedText:
    """A training text in the tokens of a base of another tokenizer, aligned with the value network's tokens.

    Attributes:
        ids: Token ids of the base.
        learned: Whether each token is learned.
        source_indices: For each token, the index of the value network's token that ends at the same byte; -1 if there
            is none.
    """

    ids: list[int]
    learned: list[bool]
    source_indices: list[int]


@dataclass(frozen=True)
class TrainingText:
    """A sequence of a model's tokens, with one text or several packed texts.

    Attributes:
        ids: Token ids.
        learned: Whether each token is learned; the first token of a text never is.
        starts: Index at which each text of the sequence starts; (0,) for one text.
        aligned: The same text for each base of another tokenizer.
    """

    ids: list[int]
    learned: list[bool]
    starts: tuple[int, ...] = (0,)
    aligned: tuple[AlignedText, ...] = ()

    @property
    def positions(self) -> list[int]:
        """Position of each token in its text, from 0.

        Passed as `position_ids`, the positions keep packed texts apart in transformers: a new text begins wherever
        positions do not increase by 1 (`find_packed_sequence_indices` of `masking_utils`). This holds for eager, sdpa
        and flex attention if `attention_mask` is None and there is no cache (`use_cache=False`), and for flash
        attention with batches of one row only. Padding on the right needs no mask because attention is causal.
        """
        ends = (*self.starts[1:], len(self.ids))
        return [position for start, end in zip(self.starts, ends, strict=True) for position in range(end - start)]


def load_training_texts(
    source: str | Path, vocabulary: Vocabulary, *, max_length: int, model: PreTrainedModel | None = None
) -> list[TrainingText]:
    """Read records and encode each as a training text.

    Args:
        source: A JSONL file, a folder of them, or hf:owner/name[:config]/split; see `vocabridge.utils.jsonl`. All
            records of a file are of one kind.
        vocabulary: Vocabulary of the model.
        max_length: Longest text in tokens; a longer text is an error and never cut.
        model: The model, whose generation configuration may name further end tokens (`end_tokens`).

    Returns:
        A text for each record, in order.

    Raises:
        VocabridgeError: The source cannot be read; or a record is of no kind or of another kind than the first one of
            its file, lacks a field, has an empty text, response or assistant's message, has no assistant's message,
            does not suit the chat template, needs a missing chat template, or is too long. The message names file and
            line.
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
        if not any(text.learned):
            raise VocabridgeError(f"{record.where}, has no token that another predicts; remove the record")
        texts.append(text)
    return texts


def split(texts: Sequence[TrainingText], share: float, seed: int) -> tuple[list[TrainingText], list[TrainingText]]:
    """Split texts, before packing, into those for training and those held out for validation.

    A text is held out if the SHA-256 of the seed and its ids, as a fraction of the largest hash, is below the share.
    So the choice does not depend on the other texts.

    Args:
        texts: The texts.
        share: Approximate share to hold out, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        The texts for training and the held-out texts, each in order.

    Raises:
        VocabridgeError: All texts are held out, or none.
    """
    parts: tuple[list[TrainingText], list[TrainingText]] = ([], [])
    for text in texts:
        digest = hashlib.sha256(f"{seed}:".encode() + np.array(text.ids, "<i4").tobytes())
        is_held_out = int.from_bytes(digest.digest(), "big") < share * 2**256
        parts[is_held_out].append(text)
    if not all(parts):
        raise VocabridgeError(
            f"a share of {share:g} holds out {len(parts[1])} of {len(texts)} texts; choose another share or seed, or "
            "name a file to validate on"
        )
    return parts


def pack(texts: Sequence[TrainingText], max_length: int) -> list[TrainingText]:
    """Pack texts into sequences of up to `max_length` tokens, by best-fit decreasing bin packing.

    Args:
        texts: The texts, none longer than `max_length`.
        max_length: Longest sequence in tokens.

    Returns:
        Sequences that hold every text once; the result is deterministic.
    """
    bins: list[list[TrainingText]] = []
    free: list[tuple[int, int]] = []  # (free tokens, index) of each bin, ascending
    for text in sorted(texts, key=lambda text: -len(text.ids)):
        best = bisect.bisect_left(free, (len(text.ids), 0))
        size, index = free.pop(best) if best < len(free) else (max_length, len(bins))
        if index == len(bins):
            bins.append([])
        bins[index].append(text)
        bisect.insort(free, (size - len(text.ids), index))
    return [_join(packed) for packed in bins]


def _join(texts: Sequence[TrainingText]) -> TrainingText:
    ids: list[int] = []
    learned: list[bool] = []
    starts: list[int] = []
    for text in texts:
        starts += [len(ids) + start for start in text.starts]
        ids += text.ids
        learned += text.learned
    return TrainingText(ids, learned, tuple(starts))


def _kind(record: Record) -> str:
    for kind in _KINDS:
        if record.fields.get(kind) is not None:
            return kind
    raise VocabridgeError(f'{record.where}, has neither "prompt" and "response" nor "messages" nor "text"; add them')


def _from_example(record: Record, vocabulary: Vocabulary, ends: Sequence[int]) -> TrainingText:
    tokens = tokenize(as_example(record), vocabulary)
    return _with_end_token(tokens.ids, tokens.first, ends)


def _from_plain_text(record: Record, vocabulary: Vocabulary, ends: Sequence[int]) -> TrainingText:
    text = record.string("text")
    if not text:
        raise VocabridgeError(f'{record.where}, has an empty "text"; fill it or remove the line')
    return _with_end_token(prompt_ids(vocabulary, text), 1, ends)


def _with_end_token(ids: list[int], first: int, ends: Sequence[int]) -> TrainingText:
    """Make a text that is learned from the index `first` on, and append an end token unless the text ends with one."""
    if ends and not set(ids[-1:]) & set(ends):
        ids = [*ids, ends[0]]
    first = max(first, 1)
    return TrainingText(ids, [i >= first for i in range(len(ids))])


def _from_chat(record: Record, vocabulary: Vocabulary, ends: Sequence[int]) -> TrainingText:
    messages = _messages(record)
    text = _render(messages, record, vocabulary)
    encoding = vocabulary.encode_prompt(text)
    ids = encoding.ids.tolist()
    # A token without a start belongs to the same character as the token before it.
    starts = np.maximum.accumulate(encoding.starts)
    stops = np.append(starts, len(text.encode()))[np.searchsorted(starts, starts, side="right")]
    learned = np.zeros(len(ids), bool)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            start, stop = _content_span(messages, turn, text, record, vocabulary)
            learned |= (stops > start) & (starts < stop)
            after = int(np.searchsorted(starts, stop))
            learned[after : _turn_end(ids, after, vocabulary, ends)] = True
    bos_ids = vocabulary.bos_ids
    if ids[: len(bos_ids)] != bos_ids:
        ids, learned = bos_ids + ids, np.append(np.zeros(len(bos_ids), bool), learned)
    learned[:1] = False
    return TrainingText(ids, learned.tolist())


def _messages(record: Record) -> list[dict[str, str]]:
    """Return the messages of a record, reduced to role and content."""
    field = record.fields["messages"]
    if not isinstance(field, list) or not all(isinstance(message, Mapping) for message in field):
        raise VocabridgeError(f'{record.where}, has "messages" that are no list of objects; correct that line')
    messages = []
    for number, message in enumerate(field, start=1):
        where = f"{record.where}, message {number}"
        messages.append({name: checked_string(message, name, where) for name in ("role", "content")})
        if messages[-1] == {"role": "assistant", "content": ""}:
            raise VocabridgeError(f"{where}, is an empty message of the assistant; fill it or remove the line")
    if not any(message["role"] == "assistant" for message in messages):
        raise VocabridgeError(f"{record.where}, has no message of the assistant to learn from; remove the line")
    return messages


def _render(messages: Sequence[Mapping[str, Any]], record: Record, vocabulary: Vocabulary) -> str:
    try:
        return vocabulary.render(messages, add_generation_prompt=False)
    except VocabridgeError as error:
        raise VocabridgeError(f"{record.where}: {error}") from error


def _content_span(
    messages: Sequence[Mapping[str, str]], turn: int, text: str, record: Record, vocabulary: Vocabulary
) -> tuple[int, int]:
    """Return the first byte of a message's content in the rendered conversation, and the byte after its last one.

    The content is what changes if the conversation is rendered with other contents. Two contents without a common
    beginning or end make the span unique, even if the same words occur elsewhere or the template strips some of them.
    """
    variants = [
        _render([*messages[:turn], {**messages[turn], "content": content}, *messages[turn + 1 :]], record, vocabulary)
        for content in ("a", "b")
    ]
    if variants[0] == variants[1]:
        raise VocabridgeError(
            f"{record.where}: the chat template of {vocabulary.name} leaves out message {turn + 1}; remove the line"
        )
    start = _common_prefix(text, *variants)
    stop = len(text) - _common_prefix(*(string[::-1] for string in (text, *variants)))
    return len(text[:start].encode()), len(text[:stop].encode())


def _common_prefix(*texts: str) -> int:
    """Return the length in characters of the longest common prefix of texts."""
    differences = (i for i, characters in enumerate(zip(*texts, strict=False)) if len(set(characters)) > 1)
    return next(differences, min(map(len, texts)))


def _turn_end(ids: Sequence[int], after: int, vocabulary: Vocabulary, ends: Sequence[int]) -> int:
    """Return the index after the token that ends a turn, which may follow white space; without that token, `after`.

    Args:
        ids: The tokens of the conversation.
        after: Index of the first token after the message's content.
        vocabulary: Vocabulary of the model.
        ends: The end tokens.
    """
    i = after
    while i < len(ids) and (vocabulary.token_bytes[ids[i]] or b"").isspace():
        i += 1
    return i + 1 if i < len(ids) and ids[i] in ends else after


_KINDS = {"messages": _from_chat, "prompt": _from_example, "text": _from_plain_text}
"""The functions that make a text of a record, by the field that a record must have; the first match counts."""
