"""Generation with a byte-level bridge: the text as an iterator of pieces that are whole characters.

Greedy decoding takes the base's most likely token at each step (`most_likely_token`), as a projected bridge does.
Sampling draws a byte at each step, so that the text is drawn from the combined distribution over bytes; it ends at the
end of a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.arrays import Float64
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelText
from vocabridge.byte_level.token_search import most_likely_token
from vocabridge.decoding.stop_strings import decode_until_stop, stop_bytes
from vocabridge.models.chat import Messages, chat_pieces
from vocabridge.models.end_tokens import end_tokens

_MAX_EXTRA_TOKENS = 8
"""How many tokens beyond the maximum may be sampled to reach the end of a word."""


class ByteLevelStream(Iterator[str]):
    """An iterator over the pieces of a generated text.

    Attributes:
        tokens: How many of the base's tokens have been generated.
        bytes: How many bytes have been generated.
        lost: The greatest share of a model's mass that may have been unevaluated or unchecked at a byte.
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
        """Begin a text; arguments and errors are those of `vocabridge.stream`."""
        self.tokens = self.bytes = 0
        self.lost = 0.0
        self._bridge = bridge
        self._max_new_tokens = max_new_tokens
        self._temperature, self._top_p = temperature, top_p
        self._steps = self._changed = 0
        self._end_ids = end_tokens(bridge.vocabulary, bridge.loaded.model, chat=not isinstance(prompt, str))
        generate = self._sample if temperature > 0 else self._greedy
        self._text = decode_until_stop(generate(_begin(bridge, prompt)), stop_bytes(stop))

    def __next__(self) -> str:
        """Return the next piece."""
        return next(self._text)

    @property
    def changed_rate(self) -> float | None:
        """The share of bytes so far at which steering changed the most likely one; None before any, and unsteered."""
        is_steered = any(steering.is_active for steering in self._bridge.steerings)
        return self._changed / self._steps if is_steered and self._steps else None

    def _greedy(self, text: ByteLevelText) -> Iterator[bytes]:
        """Yield the bytes of the most likely token at each step."""
        while self.tokens < self._max_new_tokens:
            best = most_likely_token(text)
            text = best.text
            self.lost = max(self.lost, best.lost)
            self._changed += best.changed
            self.tokens += 1
            if isinstance(best.piece, bytes):
                self._steps += len(best.piece)
                self.bytes += len(best.piece)
                yield best.piece
                continue
            self._steps += 1
            if best.piece in self._end_ids:
                return

    def _sample(self, text: ByteLevelText) -> Iterator[bytes]:
        """Yield a sampled byte at each step."""
        control_ids = self._bridge.base.control_ids.tolist()
        while True:
            distribution = text.next()
            self.lost = max(self.lost, distribution.lost)
            self._steps += 1
            self._changed += int(distribution.p.argmax() != distribution.p_base.argmax())
            index = self._draw(distribution.p)
            if index >= 256:
                if control_ids[index - 256] in self._end_ids:
                    return
                text = text.after(control_ids[index - 256])
                continue
            text = text.after(bytes([index]))
            # This byte shows that the last word has ended, so it is not part of the text.
            if (
                text.committed_new_tokens >= self._max_new_tokens
                or text.new_tokens > self._max_new_tokens + _MAX_EXTRA_TOKENS
            ):
                return
            self.tokens = text.new_tokens
            self.bytes += 1
            yield bytes([index])

    def _draw(self, p: Float64) -> int:
        """Draw the index of a byte or control token, at the temperature and among the top-p."""
        scaled = (p / p.max()) ** (1 / self._temperature)
        scaled /= scaled.sum()
        order = np.argsort(-scaled)
        before = np.cumsum(scaled[order]) - scaled[order]
        scaled[order[before >= self._top_p]] = 0
        return int(torch.multinomial(torch.from_numpy(scaled), 1))


def _begin(bridge: ByteLevelBridge, prompt: str | Messages) -> ByteLevelText:
    """Begin the text with the prompt, a chat in each model's own template."""
    if not isinstance(prompt, str):
        source_pieces = [
            chat_pieces(steering.source.vocabulary, prompt) if steering.is_active else ()
            for steering in bridge.steerings
        ]
        return bridge.text(chat_pieces(bridge.vocabulary, prompt), source_pieces)
    if not prompt and not bridge.vocabulary.bos_ids:
        raise VocabridgeError("the prompt is empty and the base model has no bos token; give it some text")
    return bridge.text(bridge.vocabulary.pieces(prompt))
