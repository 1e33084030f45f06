"""Cover pruning: how probable each cover of a text is, and which covers are worth a prediction.

    log P(cover) = sum over its steps (parent, token), after the tokens that all covers share, of log p(token | parent)

A cover that is less than a hundredth as probable as the text as it stands has next to no weight in token healing, so it
is dropped. Most covers are dropped, because a word can be cut in several ways (` wit|h`) and a model expects only one
of them. The parents of a cover's steps have mostly been read before the cover is considered, so most dropped covers are
never read. A probability that is not known yet counts as 1.
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
"""The number of distributions that are in memory at the same time."""

Step: TypeAlias = tuple[int, int, int]
"""A step of a cover: row, parent node, token."""


def prune_covers(
    source: ValueSource,
    decoder: TreeDecoder,
    positions: Sequence[Position],
    known: dict[Step, dict[str, float]],
    threshold: float,
) -> list[Position]:
    """Compute the log-probabilities of covers, and drop the covers that have next to no weight.

    No cover of a position is dropped where the text as it stands has not been read yet. None is dropped either where
    the text ends inside a character or in white space, because there the following text decides between the covers. The
    text as it stands is never dropped, because a control token may follow no other cover.

    Args:
        source: The value source.
        decoder: The tokens of the texts, and the models' predictions after those that have been read.
        positions: The positions.
        known: The log-probabilities of steps, by model; steps that have been read since the last call are added.
        threshold: A cover that is less probable than this fraction of the text as it stands is dropped.

    Returns:
        The positions with the covers that are kept, each with its `log_p`.
    """
    steps = {
        (position.row, *step)
        for position in positions
        if len(position.covers) > 1
        for cover in position.covers
        for step in cover.steps
    }
    known |= _log_p(source, decoder, [step for step in steps - known.keys() if decoder.has_logits(*step[:2])])
    return [
        _pruned(position, known, math.log(threshold) if threshold else -math.inf)
        if len(position.covers) > 1
        else position
        for position in positions
    ]


def _log_p(source: ValueSource, decoder: TreeDecoder, steps: Sequence[Step]) -> dict[Step, dict[str, float]]:
    """Return the log-probabilities of steps whose parents have been read, by model."""
    parents = list(dict.fromkeys((row, parent) for row, parent, _ in steps))
    log_p: dict[Step, dict[str, float]] = {}
    for start in range(0, len(parents), _DISTRIBUTIONS_AT_ONCE):
        indices = {parent: i for i, parent in enumerate(parents[start : start + _DISTRIBUTIONS_AT_ONCE])}
        part = [step for step in steps if step[:2] in indices]
        scores = source.scores(decoder.logits(list(indices)))
        models = {name: logits for name in ("tuned", "untuned") if (logits := getattr(scores, name)) is not None}
        pairs = torch.tensor([[indices[step[:2]], step[2]] for step in part])
        for name, logits in models.items():
            i, token = pairs.to(logits.device).unbind(1)
            values = logits[i, token] - logits.logsumexp(-1)[i]
            for step, value in zip(part, values.tolist(), strict=True):
                log_p.setdefault(step, {})[name] = value
    return log_p


def _pruned(position: Position, known: Mapping[Step, Mapping[str, float]], log_threshold: float) -> Position:
    """Return a position with the covers that are kept, each with its log-probability."""
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
        lowest = {name: log_threshold + max(other.get(name, 0.0) for other in complete) for name in cover.log_p}
        return cover.can_end or not lowest or any(log_p > lowest[name] for name, log_p in cover.log_p.items())

    if complete and not position.text_end[-1:].isspace():
        covers = [cover for cover in covers if is_kept(cover)]
    return replace(position, covers=tuple(covers))
