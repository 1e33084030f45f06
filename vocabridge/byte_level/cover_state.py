"""The covers of a text that end within it, and the tokens that may follow each."""

from __future__ import annotations

from dataclasses import dataclass

from vocabridge.alignment.arrays import Bool, Float32, Float64
from vocabridge.byte_level.lexicon import TokenRange


@dataclass(frozen=True)
class Continuations:
    """The n tokens that may follow a cover: all that begin with its pending bytes.

    Attributes:
        node: The node of the cover's last token in the token tree.
        tokens: The tokens, as a range of the lexicon.
        p: Their probabilities in each of k distributions, (k, n); 0 for a token that is known to be invalid.
        checked: Whether each token is known to be valid or invalid, (n,).
        p_control: The probabilities of the control tokens, (k, s).
    """

    node: int
    tokens: TokenRange
    p: Float32
    checked: Bool
    p_control: Float32


@dataclass(frozen=True)
class CoverState:
    """A cover: tokens that end within the text or at its end.

    Attributes:
        tokens: The cover's tokens after the committed ones.
        parent: The node of the token tree that the last token follows.
        last: The last token; None for the empty cover after `parent`.
        log_p: log P(tokens) in each of k distributions, (k,), up to a constant that all covers share.
        pending: The bytes of the text after these tokens, with which the next token has to begin.
        continuations: The tokens that may follow; None while the evaluation, which takes a forward, is deferred.
    """

    tokens: tuple[int, ...]
    parent: int
    last: int | None
    log_p: Float64
    pending: bytes
    continuations: Continuations | None = None
