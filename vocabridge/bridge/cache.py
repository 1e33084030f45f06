"""What a bridge remembers of the texts it is writing: both models' caches, and how much was steered."""

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
    """A base model's cache of any kind, and what every value source has read.

    Attributes:
        streams: What the value sources have read.
        rows: The rows of the batch that are still being written, (active,) int64; None for all.
        positions: After how many positions of each text logits were given.
    """

    def __init__(
        self,
        inner: Cache,
        prompts: Sequence[Sequence[Sequence[Piece]]] | None = None,
        width: int = 0,
        places: Sequence[Place] = (),
    ) -> None:
        """Wrap an empty cache of the base model's: dynamic, static, offloaded or quantized.

        Args:
            inner: The cache.
            prompts: For each row, what each steering reads in place of the base's prompt; see `chat`.
            width: The columns of that prompt, padding among them.
            places: For each of them, where the text stands that the base writes behind its own.

        Raises:
            VocabridgeError: The cache is not empty.
        """
        if inner.get_seq_length():
            raise VocabridgeError("a bridge cannot go on from a text that only its base model has read; give the text")
        vars(self).update(vars(inner))
        self.streams = SourceStreams(prompts, width, places)
        self.rows: Tensor | None = None
        self.positions = 0
        self._changed: Tensor | None = None
        self._written: Tensor | None = None
        self._finished: Tensor | None = None

    @property
    def is_compileable(self) -> bool:
        """Never: the value sources read text, which no graph can."""
        return False

    def count(self, base: Tensor, steered: Tensor) -> None:
        """Notes where the likeliest token is not the base model's own: logits (active, |T|) twice."""
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
        """Share of each row's tokens at which steering changed the likeliest one, (batch,); None before any.

        More than a fifth is a bad sign: so many changes predict that steering fails (BlendIn).
        """
        if self._changed is None or self._written is None:
            return None
        return self._changed / self._written

    def finish(self, finished: Tensor) -> None:
        """Is told which rows of the batch, (batch,) bool, are finished; the rows left are all that is run from then."""
        self._finished = finished

    def retire(self) -> None:
        """Drops rows that have finished since the last time."""
        if self._finished is None:
            return
        finished, self._finished = self._finished, None
        rows = torch.arange(len(finished), device=finished.device) if self.rows is None else self.rows
        kept = (~finished[rows]).nonzero().squeeze(-1)
        if len(kept) == len(rows) or not len(kept):
            return
        if not all(hasattr(layer, "batch_select_indices") for layer in self.layers):
            return  # a static cache has its shape for good
        self.batch_select_indices(kept)
        self.streams.reorder(kept)
        self.rows = rows[kept]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps the rows with these indices, (batch,) int64."""
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        if self._changed is not None and self._written is not None:
            self._changed, self._written = self._changed[beam_idx], self._written[beam_idx]
        self.streams.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row so many times."""
        super().batch_repeat_interleave(repeats)
        self.streams.repeat_interleave(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        """Roll the KV caches back by so many tokens, given as a number below 0; sources keep what is still in common.

        Raises:
            ValueError: The number is above 0, which some versions of transformers take for a length.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"tokens to take back are a negative number, not {tokens_to_remove}")
        before = self.get_seq_length()
        super().crop(tokens_to_remove)
        self.positions = max(0, self.positions + tokens_to_remove)
        self.streams.crop(before + tokens_to_remove)
