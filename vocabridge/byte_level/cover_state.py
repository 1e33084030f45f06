"""Covers of a text that end within it, and what follows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vocabridge.byte_level.lexicon import Bool, Range

Float32: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Read:
    """What follows a cover: the tokens that begin with the bytes that it has pending.

    Attributes:
        node: The place of its last token in the tree.
        run: The tokens, as a run of the lexicon.
        p: Their probabilities, (k, tokens); 0 for those that are known to be invalid.
        judged: Those of which it is known whether they may follow, (tokens,).
        symbols: The symbols' probabilities, (k, s).
    """

    node: int
    run: Range
    p: Float32
    judged: Bool
    symbols: Float32


@dataclass(frozen=True)
class CoverState:
    """Tokens that end within the text.

    Attributes:
        tokens: Those behind the settled ones.
        parent: The place in the tree of all but the last.
        last: The last token; None for one that is read after nothing but its parent.
        log_p: log P(tokens) of each voice, (k,), up to a constant that all covers share.
        pending: The bytes of the text behind them.
        read: What follows; None while it sleeps.
    """

    tokens: tuple[int, ...]
    parent: int
    last: int | None
    log_p: Float64
    pending: bytes
    read: Read | None = None
