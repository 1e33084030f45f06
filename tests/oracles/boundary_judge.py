"""Boundary weights by direct segmentations in plain loops: the oracle of `vocabridge.projection.boundary`."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vocabridge.alignment import TokenKind, Vocabulary

LETTERS = string.ascii_letters.encode() + bytes(range(0x80, 0x100))
"""The bytes of ASCII letters, and of all characters beyond ASCII."""

SAMPLES = (b"", b"a", b"0", b" ", b"\n", b"\t")
"""A continuation of each character class: nothing or punctuation, words, digits, spaces, line breaks, other space."""


@dataclass(frozen=True)
class Judge:
    """Computes how likely a target tokenizer is to end a token between the end of a text and a continuation.

    Attributes:
        target: The target vocabulary.
    """

    target: Vocabulary

    def has_boundary(self, text_end: bytes, rest: bytes) -> bool:
        """Return whether a token ends between the two if nothing follows them."""
        ends, size = set(), 0
        for i in self.target.segment(text_end + rest):
            size += len(self.target.token_bytes[i] or b"")
            ends.add(size)
        return len(text_end) in ends

    @functools.lru_cache(None)  # noqa: B019 - a few judges, which last as long as the tests
    def weight(self, text_end: bytes, rest: bytes) -> float:
        """Return the boundary weight of a continuation, above 0 and at most 1."""
        if not text_end or not rest:
            return 1.0
        if rest[-1:] in (b" ", b"\t", b"\n", b"\r", b"\v", b"\f"):
            weight = float(self.has_boundary(text_end, rest + b"a"))
        elif rest[-1] in LETTERS:
            weight = 0.95 * self.has_boundary(text_end, rest + b" ")
            for letter in "etaoinsrhldf":
                weight += 0.05 / 12 * self.has_boundary(text_end, rest + letter.encode())
        else:
            weight = float(self.has_boundary(text_end, rest + b" "))
        return max(weight, 0.001 if text_end[-1] in LETTERS and rest[0] in LETTERS else 1e-6)

    def weight_at_end(self, text_end: bytes, rest: bytes) -> float:
        """Return the boundary weight of a continuation after which the text ends."""
        return max(float(self.has_boundary(text_end, rest)), 1e-6) if text_end and rest else 1.0

    def weight_of_class(self, text_end: bytes, rest: bytes) -> float:
        """Return the boundary weight of the sample of a continuation's character class."""
        return self.weight(text_end, SAMPLES[self.character_class(rest)])

    def weights(
        self, source: Vocabulary, text_end: bytes, mass: np.ndarray
    ) -> tuple[np.ndarray, dict[int, float], bool]:
        """Return the boundary weights of all source tokens.

        Those that may be likely are judged one by one, in five rounds of more and more tokens; all others have the
        weight of their class.

        Args:
            source: The source vocabulary.
            text_end: The end of the text.
            mass: The mass of every token, (|S|,); one more entry is mass of no token, with weight 1.

        Returns:
            The weights; those that were judged, by token; and whether these do not depend on small errors of the mass.
        """
        weights = np.ones(len(mass))
        weights[: source.size] = [self.weight_of_class(text_end, data or b"") for data in source.token_bytes]
        by_class, judged, certain, unjudged = weights.copy(), {}, True, mass[: source.size].copy()
        least = mass.sum() / 1000
        for number in range(5):
            count = 16 * 2**number
            order = np.argsort(-unjudged, kind="stable")[: count + 1].tolist()
            next_mass = unjudged[order[count]] if len(order) > count else 0.0  # of the first token that is left out
            is_tie = unjudged[order[count - 1]] < 1.001 * next_mass if next_mass else False
            new = [w for w in order[:count] if unjudged[w] > least]
            for w in order:
                at_least = abs(unjudged[w] - least) < 1e-3 * least
                at_tie = is_tie and abs(unjudged[w] - next_mass) < 1e-3 * next_mass
                if at_least or at_tie:
                    certain &= self.weight(text_end, source.token_bytes[w] or b"") == by_class[w]
            if not new:
                break
            judged |= {w: self.weight(text_end, source.token_bytes[w] or b"") for w in new}
            weights[new] = [judged[w] for w in new]
            unjudged[new] = 0.0
            least = (mass * weights).sum() / 1000
        return weights, judged, certain

    @staticmethod
    def character_class(rest: bytes) -> int:
        """Return the character class of a continuation, an index into `SAMPLES`."""
        classes = (LETTERS, b"0123456789", b" ", b"\n", b"\t\r\v\f")
        return next((i for i, characters in enumerate(classes, start=1) if rest and rest[0] in characters), 0)

    @staticmethod
    def end_of(pieces: Sequence[bytes | int]) -> bytes:
        """Return the last tokens of a text that make up one word, six at most, after the last control token."""
        controls = [i for i, piece in enumerate(pieces) if isinstance(piece, int)]
        tokens = [piece for piece in pieces[controls[-1] + 1 if controls else 0 :] if piece]
        word_starts = [i for i, piece in enumerate(tokens) if piece[0] not in LETTERS]
        return b"".join(tokens[max([0, len(tokens) - 6, *word_starts[-1:]]) :])

    def decide(
        self, source: Vocabulary, text_end: bytes, w: int, weight: float, p_after: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        """Decide the boundary weight of an uncertain token by what follows it.

        Args:
            source: The source vocabulary.
            text_end: The end of the text.
            w: The token.
            weight: Its boundary weight so far.
            p_after: The source's distribution after it, (|S|,).

        Returns:
            The factor for the token's mass; and the distribution after it, given the boundary.
        """
        weighted = torch.zeros_like(p_after)
        likely = p_after.argsort(descending=True)[:16].tolist()
        for v in range(len(p_after)):
            joint = self.weight(text_end, source.token_bytes[w] + (source.token_bytes[v] or b" "))
            if source.kinds[v] == TokenKind.CONTROL:
                joint = self.weight_at_end(text_end, source.token_bytes[w])
            weighted[v] = p_after[v] * (joint if v in likely else weight)
        return float(weighted.sum()) / weight, weighted / weighted.sum()
