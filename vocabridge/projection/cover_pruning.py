"""How probable each way to cut a text is, and which ways are worth hearing.

    log P(cover) = sum over its steps (parent, token), behind what all covers share, of log p(token | parent)

A cover that is a hundredth as probable as the text as it stands has next to no say, and is left out: most words may be
cut in several ways (` wit|h`), of which a model expects only one. What stands in front of a cover's last tokens has
mostly been read when the cover comes up, so that those which are left out need not be read at all: a probability that
is not known yet is taken for 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.value_source import ValueSource
from vocabridge.projection.source_predictions import Asked, Position

_AUDIBLE = math.log(0.01)
"""How probable a cover has to be, beside the text as it stands."""

_AT_ONCE = 64
"""So many distributions are in memory at the same time."""

Step: TypeAlias = tuple[int, int, int]
"""Row, parent, token."""


def weigh(
    source: ValueSource, forest: TreeDecoder, positions: Sequence[Position], known: dict[Step, dict[str, float]]
) -> list[Position]:
    """Weighs the covers of positions by what is known, and leaves out those that have next to no say.

    What is known of steps, by donor, is kept in `known`, for when more has been read.

    Where the text as it stands has not been read, or ends within a character, or in white space (what follows decides
    there, not what is in front), none is left out. The text as it stands never is: only behind it may the text end.
    """
    steps = {
        (position.row, *step)
        for position in positions
        if len(position.asked) > 1
        for one in position.asked
        for step in one.steps
    }
    known |= _log_p(source, forest, [step for step in steps - known.keys() if forest.knows(*step[:2])])
    return [_weighed(position, known) if len(position.asked) > 1 else position for position in positions]


def _log_p(source: ValueSource, forest: TreeDecoder, steps: Sequence[Step]) -> dict[Step, dict[str, float]]:
    """The log-probabilities of some steps, by donor."""
    parents = list(dict.fromkeys((row, parent) for row, parent, _ in steps))
    found: dict[Step, dict[str, float]] = {}
    for start in range(0, len(parents), _AT_ONCE):
        at = {parent: i for i, parent in enumerate(parents[start : start + _AT_ONCE])}
        here = [step for step in steps if step[:2] in at]
        said = source.scores(forest.logits(list(at)))
        donors = {name: logits for name in ("tuned", "untuned") if (logits := getattr(said, name)) is not None}
        places = torch.tensor([[at[step[:2]], step[2]] for step in here])
        for name, logits in donors.items():
            i, token = places.to(logits.device).unbind(1)
            log_p = logits[i, token] - logits.logsumexp(-1)[i]
            for step, one in zip(here, log_p.tolist(), strict=True):
                found.setdefault(step, {})[name] = one
    return found


def _weighed(position: Position, known: Mapping[Step, Mapping[str, float]]) -> Position:
    """A position with its covers weighed, those that have a say."""
    covers = []
    for one in position.asked:
        steps = [known.get((position.row, *step), {}) for step in one.steps]
        names = {name for step in steps for name in step}
        covers.append(replace(one, log_p={name: sum(step.get(name, 0.0) for step in steps) for name in names}))
    whole = [
        one.log_p for one in covers if not one.pending and all((position.row, *step) in known for step in one.steps)
    ]

    def is_audible(cover: Asked) -> bool:
        least = {name: _AUDIBLE + max(one.get(name, 0.0) for one in whole) for name in cover.log_p}
        return cover.may_end or not least or any(log_p > least[name] for name, log_p in cover.log_p.items())

    if whole and not position.written[-1:].isspace():
        covers = [cover for cover in covers if is_audible(cover)]
    return replace(position, asked=tuple(covers))
