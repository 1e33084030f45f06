"""The streams of all value sources of a bridge, along one batch of texts.

A bridge's cache gives it the new ids of every step (`advance`). A logits processor knows all ids so far and nothing
else (`follow`): they are compared with what the sources have read, and each row goes on from the row it has most in
common with. So beams may be reordered, rows may go back, the batch may grow or shrink, and a new prompt begins anew.
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
"""The id of what is no text: padding."""


class SourceStreams:
    """A stream for each active steering.

    Attributes:
        prompt_length: The number of ids of the prompt; with `follow`.
        origin: With `follow`, for each row the row before the last call that it goes on from; None after a new prompt.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[Sequence[Piece]]] | None = None,
        width: int = 0,
        places: Sequence[Place] = (),
    ) -> None:
        """Start without texts.

        Args:
            prompts: For each row, what each steering reads in place of the base's prompt; see `chat`.
            width: The columns of that prompt, padding among them.
            places: For each prompt, where the text stands that the base writes behind its own.
        """
        self.prompt_length = 0
        self.origin: Tensor | None = None
        self._streams: dict[int, SourceStream] = {}
        self._prompts = prompts
        self._width = width
        self._places = places
        self._ids = torch.zeros(0, 0, dtype=torch.int64)  # with `follow`, what has been read, (rows, n), on the host
        self._columns_read = 0  # those that were taken back among them

    def advance(
        self, steerings: Sequence[Steering], ids: Sequence[Sequence[int]], past: int, logits_to_keep: int
    ) -> list[tuple[Steering, SourceStream, list[Position]]]:
        """Have the sources of all active steerings read on.

        Args:
            steerings: All of the bridge's.
            ids: For each row the same number of new ids of the base's; `NO_TEXT` for padding.
            past: How many ids each row has been given before.
            logits_to_keep: After how many of the new ids predictions are needed.

        Returns:
            What `steer` takes.

        Raises:
            VocabridgeError: The text was begun without a source that is needed now, or with other models of it.
        """
        unread = max(0, self._width - past)  # columns that the sources' own prompts replace
        rows = [[NO_TEXT] * min(unread, len(row)) + list(row[unread:]) for row in ids]
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
                    "combination was changed, or an earlier step was interrupted; start a new cache"
                )
            steered_by.append((steering, stream, stream.advance([stream.pieces(row) for row in rows], logits_to_keep)))
        return steered_by

    def follow(self, steerings: Sequence[Steering], ids: Tensor) -> list[tuple[Steering, SourceStream, list[Position]]]:
        """Have the sources of all active steerings follow texts, wherever they go on from, and predict at their ends.

        Args:
            steerings: All of the bridge's, at least one active.
            ids: All ids of each text so far, (batch, n), on the host; `NO_TEXT` for padding.
        """
        active = {number: steering for number, steering in enumerate(steerings) if steering.is_active}
        # Whoever is interrupted below begins anew: what the sources have read by then is not known.
        before, self._ids = self._ids, self._ids[:0]
        if any(stream.interrupted for stream in self._streams.values()):
            before = before[:0]
        length, held = ids.shape[1], before.shape[1]
        origin, common = _longest_common_prefix(before, ids)
        common = common.clamp_max(length - 1)  # a source predicts after something that it reads
        shared = int(common.min())
        self.origin = origin
        if not len(before) or shared < self.prompt_length or length > held + 1:
            self.prompt_length, self.origin = length, None
        required = {number: steering.required_models() for number, steering in active.items()}
        # What is taken back stays in the sources' caches: when it is half of what they hold, they begin anew.
        if (
            not len(before)
            or 2 * shared < self._columns_read
            or required != {number: stream.required_models for number, stream in self._streams.items()}
        ):
            self._streams = {number: steering.open_stream(len(ids)) for number, steering in active.items()}
            self._columns_read, held, shared, common = 0, 0, 0, torch.zeros_like(common)
        elif origin.tolist() != list(range(len(before))):
            self.reorder(origin)
        rows, starts = [_without_bos(row, steerings) for row in ids.tolist()], common.tolist()
        steered_by = []
        for number, steering in active.items():
            stream = self._streams[number]
            for row, (text, start) in enumerate(zip(rows, starts, strict=True)):
                if start < held:
                    stream.crop(row, start)
                stream.append(row, stream.pieces(text[start:-1]))
            steered_by.append((steering, stream, stream.advance([stream.pieces(text[-1:]) for text in rows], 1)))
        self._columns_read += length - shared
        self._ids = ids
        return steered_by

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, in this order; (rows,) int64, any number of them."""
        for stream in self._streams.values():
            stream.reorder(rows)

    def repeat_interleave(self, repeats: int) -> None:
        """Repeat every row so many times."""
        for stream in self._streams.values():
            stream.reorder(torch.arange(stream.batch).repeat_interleave(repeats))

    def crop(self, length: int) -> None:
        """Keep the first so many ids of every row."""
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
    """Return a row whose first token, if it is bos, is no text, also where one token begins and ends texts."""
    bos = steerings[0].target.roles.get("bos", NO_TEXT) if steerings else NO_TEXT
    first = next((i for i, token in enumerate(row) if token >= 0), None)
    return row if first is None or row[first] != bos else [*row[:first], NO_TEXT, *row[first + 1 :]]


def _longest_common_prefix(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each text the earlier one that it has most in common with, and how much, (batch,) int64 both.

    Args:
        before: The earlier texts' ids, (rows, m).
        after: Ids, (batch, n).
    """
    width = min(before.shape[1], after.shape[1])
    if not len(before) or not width:
        return torch.zeros(len(after), dtype=torch.int64), torch.zeros(len(after), dtype=torch.int64)
    same = after[:, None, :width] == before[None, :, :width]
    common = torch.where(same.all(-1), width, (~same).int().argmax(-1))
    # Among equals the row that was in the same place, so that nothing is moved without need.
    in_place = torch.eye(len(after), len(before), dtype=torch.int64)
    most, origin = (2 * common + in_place).max(-1)
    return origin, most // 2
