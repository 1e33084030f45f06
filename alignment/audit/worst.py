"""The worst tokens: the target tokens that lose most bits on the text, with what got their mass instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vocabridge.alignment.audit.carry import Carry
from vocabridge.alignment.audit.figures import Ratio
from vocabridge.alignment.audit.tokens import Share, Token, largest

WORST = 20
"""How many are listed."""


@dataclass(frozen=True)
class Loss:
    """A target token that loses mass.

    Attributes:
        target: The token.
        source: The source token that stands most often where it starts.
        occurrences: How often it starts where a source token starts.
        arrived: The mass on it, in occurrences.
        bits: The bits lost at these, together.
        instead: The tokens that got most of the mass in its place, largest first.
    """

    target: Token
    source: Token
    occurrences: int
    arrived: float
    bits: float
    instead: tuple[Share, ...]

    arriving = Ratio("arrived", of="occurrences")
    bits_each = Ratio("bits", of="occurrences")


def worst(carry: Carry) -> tuple[Loss, ...]:
    """Return the target tokens that lose most bits, the worst first."""
    lost = np.bincount(carry.y, carry.times * carry.bits, carry.target.vocabulary.size)
    order = np.argsort(-lost, kind="stable")[:WORST]
    return tuple(_loss(carry, int(y), float(lost[y])) for y in order if lost[y] > 0)


def _loss(carry: Carry, y: int, bits: float) -> Loss:
    source, target = carry.source.vocabulary, carry.target.vocabulary
    here = np.flatnonzero(carry.y == y)
    w, times = carry.w[here], carry.times[here]
    carried = carry.columns[:, w] @ (times / times.sum())
    carried[y] = 0.0
    return Loss(
        target=Token.of(target, y),
        source=Token.of(source, int(w[np.argmax(times)])),
        occurrences=int(times.sum()),
        arrived=float(times @ carry.arriving[here]),
        bits=bits,
        instead=largest(target, carried),
    )
