"""Stop strings: generation ends as soon as the new text contains one.

Texts are compared as bytes, so a stop string may contain any character, span several tokens and end inside a token.
Control tokens have no bytes; generation ends at the end tokens by transformers' `eos_token_id`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.alignment.text import as_utf8


class StopStrings(StoppingCriteria):
    """A stopping criterion that ends each row of a batch whose new text contains a stop string.

    A step searches the newest tokens and as many tokens before them as a stop string may span.
    """

    def __init__(self, vocabulary: Vocabulary, stop: str | Sequence[str], prompt_length: int) -> None:
        """Initialize the criterion for one or more calls of `generate` with prompts of the same length.

        Args:
            vocabulary: Vocabulary of the model that generates.
            stop: One stop string or several.
            prompt_length: Number of tokens of each prompt, including padding; they are not searched.

        Raises:
            VocabridgeError: A stop string is empty, or holds half of a surrogate pair.
        """
        self._stops = stop_bytes(stop)
        self._longest = max(map(len, self._stops), default=0)
        self._vocabulary = vocabulary
        self._prompt_length = prompt_length
        self._seen = prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Tell for each row whether a stop string ends in its new tokens; (batch, n) ids to (batch,) bool."""
        length = input_ids.shape[1]
        # A step adds one token, or several in assisted generation. Without new tokens, this is a different text.
        first = self._seen if self._seen < length else min(self._prompt_length, length)
        self._seen = length
        new = [self._spell(row) for row in input_ids[:, first:].tolist()]
        before = [b"" for _ in new]
        n_tokens = self._longest - 1
        while any(data and len(context) < self._longest - 1 for data, context in zip(new, before, strict=True)):
            start = max(self._prompt_length, first - n_tokens)
            before = [self._spell(row) for row in input_ids[:, start:first].tolist()]
            if start == self._prompt_length:
                break
            n_tokens *= 2  # some of these tokens had no bytes
        is_stopped = [
            any(stop in context[max(0, len(context) - len(stop) + 1) :] + data for stop in self._stops)
            for context, data in zip(before, new, strict=True)
        ]
        return torch.tensor(is_stopped, dtype=torch.bool, device=input_ids.device)

    def _spell(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._vocabulary.token_bytes[i] or b"" for i in ids)


def decode_until_stop(pieces: Iterable[bytes], stops: Sequence[bytes]) -> Iterator[str]:
    """Decode a text that arrives in pieces of bytes, up to the first stop string; yield non-empty pieces of text.

    Bytes wait until their character is complete and they can no longer be part of a stop string.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending = b""
    for data in pieces:
        pending += data
        start = find_stop(pending, stops)
        if start is not None:
            pending = pending[:start]
            break
        size = len(pending) - partial_stop_length(pending, stops)
        if text := decoder.decode(pending[:size]):
            yield text
        pending = pending[size:]
    if text := decoder.decode(pending, final=True):
        yield text


def stop_bytes(stop: str | Sequence[str]) -> tuple[bytes, ...]:
    """Return stop strings as UTF-8.

    Raises:
        VocabridgeError: A stop string is empty, or holds half of a surrogate pair.
    """
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in strings:
        raise VocabridgeError("a stop string is empty, which would end every text before it begins; leave it out")
    return tuple(map(as_utf8, strings))


def find_stop(data: bytes, stops: Sequence[bytes]) -> int | None:
    """Return where the stop string that ends first in a text begins; of several, the longest. None if there is none."""
    matches = [(start + len(stop), start) for stop in stops if (start := data.find(stop)) >= 0]
    return min(matches)[1] if matches else None


def partial_stop_length(data: bytes, stops: Sequence[bytes]) -> int:
    """Return how many bytes at the end of a text without a stop string may be the beginning of one."""
    sizes = range(min(len(data), max(map(len, stops), default=1) - 1), 0, -1)
    return next((size for size in sizes if any(stop.startswith(data[-size:]) for stop in stops)), 0)
