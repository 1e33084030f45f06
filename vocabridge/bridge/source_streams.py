"""The streams of all value sources of a bridge, for one batch of texts.

A bridge calls `advance` with the new ids of every step, because its cache knows the past. A logits processor calls
`follow` with all ids so far, because it gets nothing else. `follow` compares these ids with the ids that the sources
have read, and each row continues the earlier row with which it has the longest common prefix. So beams may be
reordered, rows may be rolled back, the batch may grow or shrink, and a new prompt starts new streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vocabridge.alignment import Place, VocabridgeError
from vocabridge.bridge.steering import Steering
from vocabridge.models.prompts import Piece
from vocabridge.projection.positions import Position
from vocabridge.projection.source_stream import SourceStream

NO_TEXT = -1
"""The id that stands for padding and for other tokens that are no text."""


class SourceStreams:
    """A stream for each active steering.

    Attributes:
        prompt_length: With `follow`, the number of ids of the prompt.
        origin: With `follow`, for each row of the last call the row of the call before that it continues, int64
            (batch,); None after a new prompt.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[Sequence[Piece]]] | None = None,
        width: int = 0,
        places: Sequence[Place] = (),
    ) -> None:
        """Start without texts.

        Args:
            prompts: For each row and each steering, the source's own prompt, which replaces the base's; see `chat`.
            width: The number of columns of the base's prompt, padding included.
            places: For each row, the place of the text that the base writes after its prompt.
        """
        self.prompt_length = 0
        self.origin: Tensor | None = None
        self._streams: dict[int, SourceStream] = {}
        self._prompts = prompts
        self._width = width
        self._places = places
        self._ids = torch.zeros(0, 0, dtype=torch.int64)  # with `follow`, the ids read so far, (rows, n), on the host
        self._columns_read = 0  # including columns that were rolled back

    def advance(
        self, steerings: Sequence[Steering], ids: Sequence[Sequence[int]], past: int, logits_to_keep: int
    ) -> list[tuple[Steering, SourceStream, list[Position]]]:
        """Append new ids to the texts of all active steerings' sources.

        Args:
            steerings: All steerings of the bridge.
            ids: For each row, the same number of new ids of the base's; `NO_TEXT` for padding.
            past: The number of ids that each row has been given before.
            logits_to_keep: The number of last ids after which predictions are needed.

        Returns:
            The active steerings, each with its stream and its positions, as `steer` takes them.

        Raises:
            VocabridgeError: The text was begun without a source that is needed now, or with other models of that
                source.
        """
        replaced = max(0, self._width - past)  # columns that the sources' own prompts replace
        rows = [[NO_TEXT] * min(replaced, len(row)) + list(row[replaced:]) for row in ids]
        if not past:
            rows = [_without_bos(row, steerings) for row in rows]
        steered_by = []
        for number, steering in enumerate(steerings):
            if not steering.is_active:
                continue
            stream = self._streams.get(number)
            if stream is None and not past:
                stream = self._streams[number] = self._open(number, steering, len(rows))
            if (
                stream is None
                or stream.interrupted
                or stream.length != past
                or stream.required_models != steering.required_models()
            ):
                raise VocabridgeError(
                    f"{steering.source.name} has not read this text from its start, because the strength or the "
                    "combination was changed or an earlier step was interrupted; start a new cache"
                )
            steered_by.append((steering, stream, stream.advance([stream.pieces(row) for row in rows], logits_to_keep)))
        return steered_by

    def follow(self, steerings: Sequence[Steering], ids: Tensor) -> list[tuple[Steering, SourceStream, list[Position]]]:
        """Bring all active steerings' sources to the ends of texts, given whole.

        Args:
            steerings: All steerings of the bridge, at least one of them active.
            ids: All ids of each text so far, (batch, n), on the host; `NO_TEXT` for padding.

        Returns:
            The active steerings, each with its stream and its positions, one a row, as `steer` takes them.
        """
        active = {number: steering for number, steering in enumerate(steerings) if steering.is_active}
        # `_ids` is empty until this method ends, so that after an interruption the streams start anew.
        before, self._ids = self._ids, self._ids[:0]
        if any(stream.interrupted for stream in self._streams.values()):
            before = before[:0]
        length, old_length = ids.shape[1], before.shape[1]
        origin, common = _longest_common_prefix(before, ids)
        common = common.clamp_max(length - 1)  # because a source predicts only after a token that this call appends
        shared = int(common.min())
        self.origin = origin
        if not len(before) or shared < self.prompt_length or length > old_length + 1:
            self.prompt_length, self.origin = length, None
        required = {number: steering.required_models() for number, steering in active.items()}
        # Columns that were rolled back stay in the sources' caches, so at half of all, the streams start anew.
        if (
            not len(before)
            or 2 * shared < self._columns_read
            or required != {number: stream.required_models for number, stream in self._streams.items()}
        ):
            self._streams = {number: steering.open_stream(len(ids)) for number, steering in active.items()}
            self._columns_read, old_length, shared, common = 0, 0, 0, torch.zeros_like(common)
        elif origin.tolist() != list(range(len(before))):
            self.reorder(origin)
        rows, starts = [_without_bos(row, steerings) for row in ids.tolist()], common.tolist()
        steered_by = []
        for number, steering in active.items():
            stream = self._streams[number]
            for row, (text, start) in enumerate(zip(rows, starts, strict=True)):
                if start < old_length:
                    stream.crop(row, start)
                stream.append(row, stream.pieces(text[start:-1]))
            steered_by.append((steering, stream, stream.advance([stream.pieces(text[-1:]) for text in rows], 1)))
        self._columns_read += length - shared
        self._ids = ids
        return steered_by

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, int64 (rows,), in this order; an index may occur several times."""
        for stream in self._streams.values():
            stream.reorder(rows)

    def repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        for stream in self._streams.values():
            stream.reorder(torch.arange(stream.batch).repeat_interleave(repeats))

    def crop(self, length: int) -> None:
        """Keep the first `length` ids of every row."""
        for stream in self._streams.values():
            for row in range(stream.batch):
                stream.crop(row, length)

    def _open(self, number: int, steering: Steering, batch: int) -> SourceStream:
        stream = steering.open_stream(batch)
        if self._prompts:
            for row in range(batch):  # `generate` repeats each prompt for its beams or samples
                prompt = row * len(self._prompts) // batch
                stream.set_prompt(row, self._prompts[prompt][number], self._places[prompt])
        return stream


def _without_bos(row: list[int], steerings: Sequence[Steering]) -> list[int]:
    """Return a row with `NO_TEXT` in place of a bos at its start, because each source adds its own bos."""
    bos = steerings[0].target.roles.get("bos", NO_TEXT) if steerings else NO_TEXT
    first = next((i for i, token in enumerate(row) if token >= 0), None)
    return row if first is None or row[first] != bos else [*row[:first], NO_TEXT, *row[first + 1 :]]


def _longest_common_prefix(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the earlier text with which each text has the longest common prefix, and the length of that prefix.

    Args:
        before: The ids of the earlier texts, (rows, m).
        after: The ids of the texts, (batch, n).

    Returns:
        Indices of earlier texts and lengths, int64 (batch,) each.
    """
    width = min(before.shape[1], after.shape[1])
    if not len(before) or not width:
        return torch.zeros(len(after), dtype=torch.int64), torch.zeros(len(after), dtype=torch.int64)
    same = after[:, None, :width] == before[None, :, :width]
    common = torch.where(same.all(-1), width, (~same).int().argmax(-1))
    # Among earlier texts with equal prefixes, the one with the same index, so that no row moves without need.
    in_place = torch.eye(len(after), len(before), dtype=torch.int64)
    most, origin = (2 * common + in_place).max(-1)
    return origin, most // 2
