"""A text that a byte-level bridge writes, given out in whole characters as it comes.

Greedy decoding takes the base's likeliest token each time (`likeliest_token`), as a bridge by projection does. What is
drawn is drawn byte by byte, so that it is a text of the combination over bytes; it ends behind a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelText
from vocabridge.byte_level.cover_state import Float64
from vocabridge.byte_level.token_search import likeliest_token
from vocabridge.decoding.stop_strings import stop_bytes, whole_characters
from vocabridge.models.chat import Messages, chat_pieces
from vocabridge.models.end_tokens import end_tokens

_LONGEST_WORD = 8
"""So many tokens too many are written in the hope of a word's end."""


class ByteLevelStream(Iterator[str]):
    """Pieces of a text that is being written.

    Attributes:
        tokens: How many tokens of the base's have been written.
        bytes: How many bytes have been written.
        lost: The greatest share of a model's mass that may have been left unread or unjudged at a byte.
    """

    def __init__(
        self,
        bridge: ByteLevelBridge,
        prompt: str | Messages,
        max_new_tokens: int,
        stop: str | Sequence[str],
        temperature: float,
        top_p: float,
    ) -> None:
        """Of one text; arguments and errors as for `stream`."""
        self.tokens = self.bytes = 0
        self.lost = 0.0
        self._bridge = bridge
        self._max = max_new_tokens
        self._temperature, self._top_p = temperature, top_p
        self._steps = self._changed = 0
        self._ends = end_tokens(bridge.vocabulary, bridge.loaded.model, chat=not isinstance(prompt, str))
        write = self._drawn if temperature > 0 else self._greedy
        self._text = whole_characters(write(_begun(bridge, prompt)), stop_bytes(stop))

    def __next__(self) -> str:
        """The next piece."""
        return next(self._text)

    @property
    def changed_rate(self) -> float | None:
        """Share of the bytes so far at which steering changed the likeliest one; None before any, and at strength 0."""
        silent = not any(steering.is_active for steering in self._bridge.steerings)
        return None if silent or not self._steps else self._changed / self._steps

    def _greedy(self, text: ByteLevelText) -> Iterator[bytes]:
        """The likeliest token each time."""
        while self.tokens < self._max:
            found = likeliest_token(text)
            text = found.text
            self.lost = max(self.lost, found.lost)
            self._changed += found.changed
            self.tokens += 1
            if isinstance(found.piece, bytes):
                self._steps += len(found.piece)
                self.bytes += len(found.piece)
                yield found.piece
                continue
            self._steps += 1
            if found.piece in self._ends:
                return

    def _drawn(self, text: ByteLevelText) -> Iterator[bytes]:
        """A byte each time."""
        symbols = self._bridge.base.symbols.tolist()
        while True:
            found = text.next()
            self.lost = max(self.lost, found.lost)
            self._steps += 1
            self._changed += int(found.p.argmax() != found.p_base.argmax())
            chosen = self._draw(found.p)
            if chosen >= 256:
                if symbols[chosen - 256] in self._ends:
                    return
                text = text.after(symbols[chosen - 256])
                continue
            text = text.after(bytes([chosen]))
            # The byte that tells that a word has ended is not written any more.
            if text.settled >= self._max or text.tokens > self._max + _LONGEST_WORD:
                return
            self.tokens = text.tokens
            self.bytes += 1
            yield bytes([chosen])

    def _draw(self, p: Float64) -> int:
        """A byte or symbol by its probability, at the temperature and within top-p."""
        scaled = (p / p.max()) ** (1 / self._temperature)
        scaled /= scaled.sum()
        order = np.argsort(-scaled)
        before = np.cumsum(scaled[order]) - scaled[order]
        scaled[order[before >= self._top_p]] = 0
        return int(torch.multinomial(torch.from_numpy(scaled), 1))


def _begun(bridge: ByteLevelBridge, prompt: str | Messages) -> ByteLevelText:
    """The text with the prompt that each model reads."""
    if not isinstance(prompt, str):
        donors = [chat_pieces(one.source.vocabulary, prompt) if one.is_active else () for one in bridge.steerings]
        return bridge.text(chat_pieces(bridge.vocabulary, prompt), donors)
    if not prompt and not bridge.vocabulary.bos_ids:
        raise VocabridgeError("the prompt is empty and the base model has no bos token; give it some text")
    return bridge.text(bridge.vocabulary.pieces(prompt))
