"""The cache of a bridge: the base's KV cache, the sources' streams, and counts of the tokens that steering changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vocabridge.alignment import Place, VocabridgeError
from vocabridge.bridge.source_streams import SourceStreams
from vocabridge.models.prompts import Piece


class BridgeCache(Cache):
    """A base model's cache of any kind, with the streams of all value sources.

    Attributes:
        streams: The streams of the value sources.
        rows: The rows of the batch that are not finished, int64 (active,); None for all.
        positions: The number of positions of each text for which steered logits were computed.
    """

    def __init__(
        self,
        inner: Cache,
        prompts: Sequence[Sequence[Sequence[Piece]]] | None = None,
        width: int = 0,
        places: Sequence[Place] = (),
    ) -> None:
        """Wrap an empty cache of the base model: dynamic, static, offloaded or quantized.

        Args:
            inner: The base model's cache.
            prompts: For each row and each steering, the source's own prompt, which replaces the base's; see `chat`.
            width: The number of columns of the base's prompt, padding included.
            places: For each row, the place of the text that the base writes after its prompt.

        Raises:
            VocabridgeError: The cache is not empty.
        """
        if inner.get_seq_length():
            raise VocabridgeError(
                "a bridge cannot continue a text that only its base model has read; give an empty cache and the whole "
                "text"
            )
        vars(self).update(vars(inner))
        self.streams = SourceStreams(prompts, width, places)
        self.rows: Tensor | None = None
        self.positions = 0
        self._changed: Tensor | None = None
        self._written: Tensor | None = None
        self._finished: Tensor | None = None

    @property
    def is_compileable(self) -> bool:
        """False, because tokenizers run in each forward of a bridge."""
        return False

    def count(self, base: Tensor, steered: Tensor) -> None:
        """Count the rows in which steering changes the most likely token.

        Args:
            base: The base's logits, (active, |T|).
            steered: The steered logits, (active, |T|).
        """
        changed = (base.argmax(-1) != steered.argmax(-1)).long()
        if self._changed is None or self._written is None:
            self._changed, self._written = torch.zeros_like(changed), torch.zeros_like(changed)
        if self.rows is None:
            self._changed += changed
            self._written += 1
        else:
            self._changed.index_add_(0, self.rows, changed)
            self._written.index_add_(0, self.rows, torch.ones_like(changed))

    @property
    def changed_rate(self) -> Tensor | None:
        """The share of each row's tokens at which steering changed the most likely one, (batch,); None before any.

        A share above 0.2 is a bad sign, because so many changes predict that steering fails (BlendIn).
        """
        if self._changed is None or self._written is None:
            return None
        return self._changed / self._written

    def finish(self, finished: Tensor) -> None:
        """Note the finished rows of the batch, bool (batch,). `retire` drops them before the next step."""
        self._finished = finished

    def retire(self) -> None:
        """Drop the rows that have finished, so that no model computes them further."""
        if self._finished is None:
            return
        finished, self._finished = self._finished, None
        rows = torch.arange(len(finished), device=finished.device) if self.rows is None else self.rows
        kept = (~finished[rows]).nonzero().squeeze(-1)
        if len(kept) == len(rows) or not len(kept):
            return
        if not all(hasattr(layer, "batch_select_indices") for layer in self.layers):
            return  # the shape of a static cache is fixed
        self.batch_select_indices(kept)
        self.streams.reorder(kept)
        self.rows = rows[kept]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows with these indices, int64 (batch,), in this order."""
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        if self._changed is not None and self._written is not None:
            self._changed, self._written = self._changed[beam_idx], self._written[beam_idx]
        self.streams.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        self.streams.repeat_interleave(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Roll back the KV caches and the sources' texts by some tokens.

        Args:
            tokens_to_remove: The number of tokens, as a negative number or 0.

        Raises:
            ValueError: The number is positive, which some versions of transformers take for a length.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"the number of tokens to remove is {tokens_to_remove}; give a negative number or 0")
        before = self.get_seq_length()
        super().crop(tokens_to_remove)
        self.positions = max(0, self.positions + tokens_to_remove)
        self.streams.crop(before + tokens_to_remove)
