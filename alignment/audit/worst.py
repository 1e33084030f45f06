"""The worst tokens: the target tokens that lose most bits on the text, with the tokens that get their mass instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vocabridge.alignment.audit.figures import Ratio
from vocabridge.alignment.audit.projected_mass import ProjectedMass
from vocabridge.alignment.audit.tokens import Share, Token, largest

WORST = 20
"""The number of tokens that are listed."""


@dataclass(frozen=True)
class Loss:
    """A target token that loses mass.

    Attributes:
        target: The target token.
        source: The source token that most often starts at the same byte.
        occurrences: How often the target token starts where a source token starts.
        arrived: The mass on the target token there, in occurrences.
        bits: The sum of the bits lost there.
        instead: The other target tokens that get most of the mass there, the largest first.
    """

    target: Token
    source: Token
    occurrences: int
    arrived: float
    bits: float
    instead: tuple[Share, ...]

    arriving = Ratio("arrived", of="occurrences")
    bits_each = Ratio("bits", of="occurrences")


def worst(projected: ProjectedMass) -> tuple[Loss, ...]:
    """Return the target tokens that lose most bits, the worst first."""
    lost = np.bincount(projected.y, projected.times * projected.bits, projected.target.vocabulary.size)
    order = np.argsort(-lost, kind="stable")[:WORST]
    return tuple(_loss(projected, int(y), float(lost[y])) for y in order if lost[y] > 0)


def _loss(projected: ProjectedMass, y: int, bits: float) -> Loss:
    source, target = projected.source.vocabulary, projected.target.vocabulary
    pairs = np.flatnonzero(projected.y == y)
    w, times = projected.w[pairs], projected.times[pairs]
    instead = projected.columns[:, w] @ (times / times.sum())
    instead[y] = 0.0
    return Loss(
        target=Token.of(target, y),
        source=Token.of(source, int(w[np.argmax(times)])),
        occurrences=int(times.sum()),
        arrived=float(times @ projected.arriving[pairs]),
        bits=bits,
        instead=largest(target, instead),
    )
