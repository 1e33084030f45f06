"""How likely a target ends a token between a text and its continuation, by direct segmentations in plain loops."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vocabridge.alignment import TokenKind, Vocabulary

LETTERS = string.ascii_letters.encode() + bytes(range(0x80, 0x100))
"""The bytes of letters, and of all characters beyond ASCII."""

SAMPLES = (b"", b"a", b"0", b" ", b"\n", b"\t")
"""A continuation of each kind: nothing or punctuation, words, digits, spaces, line breaks, other white space."""


@dataclass(frozen=True)
class Judge:
    """How likely a target tokenizer ends a token between a text's end and a continuation, by direct segmentations."""

    target: Vocabulary

    def cut(self, written: bytes, rest: bytes) -> bool:
        """Whether a token ends between the two, where both are all there is."""
        ends, at = set(), 0
        for i in self.target.segment(written + rest):
            at += len(self.target.token_bytes[i] or b"")
            ends.add(at)
        return len(written) in ends

    @functools.lru_cache(None)  # noqa: B019 - a few judges, and they last as long as the tests
    def count(self, written: bytes, rest: bytes) -> float:
        """What the continuation counts, from a little to 1."""
        if not written or not rest:
            return 1.0
        if rest[-1:] in (b" ", b"\t", b"\n", b"\r", b"\v", b"\f"):
            share = float(self.cut(written, rest + b"a"))
        elif rest[-1] in LETTERS:
            share = 0.95 * self.cut(written, rest + b" ")
            for letter in "etaoinsrhldf":
                share += 0.05 / 12 * self.cut(written, rest + letter.encode())
        else:
            share = float(self.cut(written, rest + b" "))
        return max(share, 0.001 if written[-1] in LETTERS and rest[0] in LETTERS else 1e-6)

    def count_at_end(self, written: bytes, rest: bytes) -> float:
        """What a continuation counts behind which the text ends."""
        return max(float(self.cut(written, rest)), 1e-6) if written and rest else 1.0

    def by_kind(self, written: bytes, rest: bytes) -> float:
        """What a continuation of this kind counts, whichever it is."""
        return self.count(written, SAMPLES[self.kind(rest)])

    def weighed(
        self, source: Vocabulary, written: bytes, mass: np.ndarray
    ) -> tuple[np.ndarray, dict[int, float], bool]:
        """What all tokens count: what may be likely is judged one by one, in five rounds of more and more tokens.

        Args:
            source: Whose tokens.
            written: The end of the text.
            mass: Of every token, and last of what is none, if it is there, which counts 1.

        Returns:
            What they count; of those that were judged; and whether small errors could judge others, and that matters.
        """
        counts = np.ones(len(mass))
        counts[: source.size] = [self.by_kind(written, data or b"") for data in source.token_bytes]
        by_kind, judged, certain, unjudged = counts.copy(), {}, True, mass[: source.size].copy()
        least = mass.sum() / 1000
        for number in range(5):
            most = 16 * 2**number
            order = np.argsort(-unjudged, kind="stable")[: most + 1].tolist()
            last = unjudged[order[most]] if len(order) > most else 0.0  # that is left out
            tie = unjudged[order[most - 1]] < 1.001 * last if last else False
            new = [w for w in order[:most] if unjudged[w] > least]
            for w in order:
                close = abs(unjudged[w] - least) < 1e-3 * least or (tie and abs(unjudged[w] - last) < 1e-3 * last)
                one_by_one = self.count(written, source.token_bytes[w] or b"") if close else by_kind[w]
                certain &= one_by_one == by_kind[w]
            if not new:
                break
            judged |= {w: self.count(written, source.token_bytes[w] or b"") for w in new}
            counts[new] = [judged[w] for w in new]
            unjudged[new] = 0.0
            least = (mass * counts).sum() / 1000
        return counts, judged, certain

    @staticmethod
    def kind(rest: bytes) -> int:
        """Of which kind a continuation is, index into `SAMPLES`."""
        of_kinds = (LETTERS, b"0123456789", b" ", b"\n", b"\t\r\v\f")
        return next((i for i, several in enumerate(of_kinds, start=1) if rest and rest[0] in several), 0)

    @staticmethod
    def end_of(pieces: Sequence[bytes | int]) -> bytes:
        """The last token of a text, and those of its word before it, six in all; behind the last control token."""
        controls = [i for i, piece in enumerate(pieces) if isinstance(piece, int)]
        behind = [piece for piece in pieces[controls[-1] + 1 if controls else 0 :] if piece]
        begins = [i for i, piece in enumerate(behind) if piece[0] not in LETTERS]
        return b"".join(behind[max([0, len(behind) - 6, *begins[-1:]]) :])

    def decided(
        self, source: Vocabulary, written: bytes, w: int, count: float, after: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        """How much an unsure token's mass is multiplied by, and what follows it then, in loops over all that may."""
        weighed = torch.zeros_like(after)
        likely = after.argsort(descending=True)[:16].tolist()
        for v in range(len(after)):
            text = source.token_bytes[w] + (source.token_bytes[v] or b" ")
            counted = self.count(written, text)
            if source.kinds[v] == TokenKind.CONTROL:
                counted = self.count_at_end(written, source.token_bytes[w])
            weighed[v] = after[v] * (counted if v in likely else count)
        return float(weighed.sum()) / count, weighed / weighed.sum()
