"""How probable each cover of a text is, and which covers are worth a prediction.

    log P(cover) = sum over its steps (parent, token), behind what all covers share, of log p(token | parent)

A cover that is a hundredth as probable as the text as it stands methods next to no weight and is dropped: most words
can be cut in several ways (` wit|h`), of which a model expects only one. What precedes a cover's last tokens has mostly
been read when the cover comes up, so those that are dropped need not be read at all: a probability that is not known
yet counts as 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.value_source import ValueSource
from vocabridge.projection.positions import CoverNode, Position

_DISTRIBUTIONS_AT_ONCE = 64
"""So many distributions are in memory at the same time."""

Step: TypeAlias = tuple[int, int, int]
"""Row, parent, token."""


def prune_covers(
    source: ValueSource,
    decoder: TreeDecoder,
    positions: Sequence[Position],
    known: dict[Step, dict[str, float]],
    threshold: float,
) -> list[Position]:
    """Weigh the covers of positions by what is known, and drop those that method next to no weight.

    Where the text as it stands has not been read, or ends inside a character or in white space (what follows decides
    there, not what precedes), none is dropped. The text as it stands never is: only behind it may the text end.

    Args:
        source: The value source.
        decoder: What its models have read.
        positions: The positions.
        known: Log-probabilities of steps, by model; extended by what has been read since.
        threshold: The fraction of the text as it stands below which a cover is dropped.
    """
    steps = {
        (position.row, *step)
        for position in positions
        if len(position.covers) > 1
        for cover in position.covers
        for step in cover.steps
    }
    known |= _log_p(source, decoder, [step for step in steps - known.keys() if decoder.knows(*step[:2])])
    return [
        _pruned(position, known, math.log(threshold) if threshold else -math.inf)
        if len(position.covers) > 1
        else position
        for position in positions
    ]


def _log_p(source: ValueSource, decoder: TreeDecoder, steps: Sequence[Step]) -> dict[Step, dict[str, float]]:
    """Return the log-probabilities of some steps, by model."""
    parents = list(dict.fromkeys((row, parent) for row, parent, _ in steps))
    log_p: dict[Step, dict[str, float]] = {}
    for start in range(0, len(parents), _DISTRIBUTIONS_AT_ONCE):
        at = {parent: i for i, parent in enumerate(parents[start : start + _DISTRIBUTIONS_AT_ONCE])}
        here = [step for step in steps if step[:2] in at]
        scores = source.scores(decoder.logits(list(at)))
        models = {name: logits for name in ("tuned", "untuned") if (logits := getattr(scores, name)) is not None}
        places = torch.tensor([[at[step[:2]], step[2]] for step in here])
        for name, logits in models.items():
            i, token = places.to(logits.device).unbind(1)
            values = logits[i, token] - logits.logsumexp(-1)[i]
            for step, value in zip(here, values.tolist(), strict=True):
                log_p.setdefault(step, {})[name] = value
    return log_p


def _pruned(position: Position, known: Mapping[Step, Mapping[str, float]], log_threshold: float) -> Position:
    """Return a position with its covers weighed, those that are kept."""
    covers = []
    for cover in position.covers:
        steps = [known.get((position.row, *step), {}) for step in cover.steps]
        names = {name for step in steps for name in step}
        log_p = {name: sum(step.get(name, 0.0) for step in steps) for name in names}
        covers.append(replace(cover, log_p=log_p))
    complete = [
        cover.log_p
        for cover in covers
        if not cover.pending and all((position.row, *step) in known for step in cover.steps)
    ]

    def is_kept(cover: CoverNode) -> bool:
        least = {name: log_threshold + max(other.get(name, 0.0) for other in complete) for name in cover.log_p}
        return cover.can_end or not least or any(log_p > least[name] for name, log_p in cover.log_p.items())

    if complete and not position.text_end[-1:].isspace():
        covers = [cover for cover in covers if is_kept(cover)]
    return replace(position, covers=tuple(covers))
