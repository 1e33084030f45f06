"""Stop strings: generation ends where one is complete, wherever in the tokens it stands.

A text is compared as bytes, so a stop string may end inside a token, be spread over several, and contain any
character. Control tokens have no bytes; a model ends at those of its own (transformers' `eos_token_id`).
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
    """Ends each row of a batch in which a stop string has been written.

    A step looks at the newest tokens, and at as many before them as a stop string may span.
    """

    def __init__(self, vocabulary: Vocabulary, stop: str | Sequence[str], prompt_length: int) -> None:
        """For a call of `generate`, or for several with prompts of this length.

        Args:
            vocabulary: Of the model that generates.
            stop: One stop string or several.
            prompt_length: How many tokens each prompt has, padding included; nothing is looked for in them.

        Raises:
            VocabridgeError: A stop string is empty.
        """
        self._stops = stop_bytes(stop)
        self._longest = max(map(len, self._stops), default=0)
        self._vocabulary = vocabulary
        self._prompt_length = prompt_length
        self._seen = prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether a stop string ends in what is new of each row, (batch, n) ids to bool (batch,)."""
        length = input_ids.shape[1]
        # A step mostly adds one token, assisted generation several; no more than before is another text.
        first = self._seen if self._seen < length else min(self._prompt_length, length)
        self._seen = length
        new = [self._written(row) for row in input_ids[:, first:].tolist()]
        before = [b"" for _ in new]
        reach = self._longest - 1
        while any(data and len(known) < self._longest - 1 for data, known in zip(new, before, strict=True)):
            start = max(self._prompt_length, first - reach)
            before = [self._written(row) for row in input_ids[:, start:first].tolist()]
            if start == self._prompt_length:
                break
            reach *= 2  # some of these tokens had no bytes
        found = [
            any(stop in known[max(0, len(known) - len(stop) + 1) :] + data for stop in self._stops)
            for known, data in zip(before, new, strict=True)
        ]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)

    def _written(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._vocabulary.token_bytes[i] or b"" for i in ids)


def whole_characters(pieces: Iterable[bytes], stops: Sequence[bytes]) -> Iterator[str]:
    """A text that comes in bytes, up to the first stop string; pieces of it, none empty."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending = b""
    for data in pieces:
        pending += data
        at = stopped(pending, stops)
        if at is not None:
            pending = pending[:at]
            break
        sure = len(pending) - held(pending, stops)
        if text := decoder.decode(pending[:sure]):
            yield text
        pending = pending[sure:]
    if text := decoder.decode(pending, final=True):
        yield text


def cut(data: bytes, stop: str | Sequence[str]) -> bytes:
    """A text up to the stop string that ends first in it; all of it if there is none.

    Raises:
        VocabridgeError: A stop string is empty.
    """
    at = stopped(data, stop_bytes(stop))
    return data if at is None else data[:at]


def stop_bytes(stop: str | Sequence[str]) -> tuple[bytes, ...]:
    """Stop strings as bytes.

    Raises:
        VocabridgeError: One is empty, or holds half of a surrogate pair.
    """
    several = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in several:
        raise VocabridgeError("a stop string is empty, which would end every text before it begins; leave it out")
    return tuple(map(as_utf8, several))


def stopped(data: bytes, stops: Sequence[bytes]) -> int | None:
    """Where the stop string begins that ends first in a text, of several the longest; None if there is none."""
    places = [(at + len(stop), at) for stop in stops if (at := data.find(stop)) >= 0]
    return min(places)[1] if places else None


def held(data: bytes, stops: Sequence[bytes]) -> int:
    """How many of a text's last bytes may yet become a stop string, in a text that holds none."""
    sizes = range(min(len(data), max(map(len, stops), default=1) - 1), 0, -1)
    return next((size for size in sizes if any(stop.startswith(data[-size:]) for stop in stops)), 0)
