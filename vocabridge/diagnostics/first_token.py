"""The token with which a target's encoding of a text continues, and whether text that follows may still change it.

A text so far, the *prefix*, ends at one of the target's boundaries: its tokens t_1 ... t_i spell it. The text continues
with some bytes, the *rest*, and then with text that is not known. The first token of the rest is the one after
t_1 ... t_i in the target's encoding of the whole text. If that encoding does not begin with t_1 ... t_i, the target
would have cut the prefix in another way, and the first token is `INCOMPATIBLE`.

What may follow is tried, as in `cover_validity`. The first token counts as *open* if longer tokens begin with the
rest, or if one of a few continuations changes it. At a safe cut only the rest itself matters, so the first tokens of
rests are cached.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.alignment.arrays import Bool, Int64
from vocabridge.byte_level.cover_validity import CoverValidity, longer_texts, partial_utf8, shortest_texts
from vocabridge.projection.token_healing import prefix_bounds

INCOMPATIBLE = -1
"""Stands for a token where the target's encoding of the whole text does not begin with the tokens of the prefix."""

_MAX_OVERLAPPING_TOKENS = 16
"""How many tokens that begin within a text and reach beyond it are tried, for each place where they may begin."""

_CACHE_SIZE = 1 << 19
"""The number of rests after a safe cut whose first tokens are cached."""

_FirstTokens: TypeAlias = dict[bytes, tuple[int, bool]]
"""For each rest its first token, and whether this is open."""


@dataclass(frozen=True)
class Prefix:
    """A text so far, from its last safe cut on.

    Attributes:
        data: Its bytes.
        ids: The target's tokens that spell them.
    """

    data: bytes = b""
    ids: tuple[int, ...] = ()


class FirstTokenFinder:
    """Finds first tokens in one target vocabulary."""

    def __init__(self, target: Vocabulary) -> None:
        """Prepare for one target vocabulary.

        Raises:
            VocabridgeError: Its tokenizer changes texts, so its tokens do not spell them.
        """
        self._validity = CoverValidity(target)
        self._token_bytes = target.token_bytes
        self._after_safe_cut: _FirstTokens = {}
        self._overlapping = functools.lru_cache(maxsize=1 << 16)(self._find_overlapping)

    def prefix(self, data: bytes, ids: Sequence[int]) -> Prefix:
        """Return the part of a text so far that matters.

        Args:
            data: The bytes of the text.
            ids: The target's tokens that spell them.
        """
        partial = partial_utf8(data) or b""
        text = data[: len(data) - len(partial)].decode(errors="replace")
        tail = data[len(text[: self._validity.last_safe_cut(text)].encode()) :]
        first, size = len(ids), 0
        while first and size < len(tail):
            first -= 1
            size += len(self._token_bytes[ids[first]] or b"")
        return Prefix(tail, tuple(ids[first:]))

    def may_end(self, prefix: Prefix) -> bool:
        """Return whether the prefix has its tokens if the text ends there."""
        return partial_utf8(prefix.data) == b"" and self._validity.encode(prefix.data.decode()) == prefix.ids

    def safe_cut_bytes(self, data: bytes) -> Sequence[int]:
        """Return the bytes before which the target always cuts if they follow some others."""
        text = data[-4:].decode(errors="ignore") if partial_utf8(data) == b"" else ""
        return list(self._validity.safe_cut_bytes(text[-1:]))

    def find(self, prefix: Prefix, rests: Sequence[bytes]) -> tuple[Int64, Bool]:
        """Return the first tokens of n rests.

        Args:
            prefix: The text so far.
            rests: The bytes with which it may continue, n times; none is empty.

        Returns:
            The first tokens, or `INCOMPATIBLE`, int64 (n,); and which of them are open, (n,).
        """
        if len(self._after_safe_cut) > _CACHE_SIZE:
            self._after_safe_cut.clear()
        safe_cut_bytes = self.safe_cut_bytes(prefix.data)
        at_safe_cut = [rest for rest in dict.fromkeys(rests) if not prefix.data or rest[0] in safe_cut_bytes]
        first_tokens = dict.fromkeys(at_safe_cut, (INCOMPATIBLE, False))
        if at_safe_cut and self.may_end(prefix):
            self._find(
                Prefix(), [rest for rest in at_safe_cut if rest not in self._after_safe_cut], self._after_safe_cut
            )
            first_tokens = {rest: self._after_safe_cut[rest] for rest in at_safe_cut}
        self._find(prefix, [rest for rest in dict.fromkeys(rests) if rest not in first_tokens], first_tokens)
        return (
            np.array([first_tokens[rest][0] for rest in rests], np.int64),
            np.array([first_tokens[rest][1] for rest in rests], bool),
        )

    def _find(self, prefix: Prefix, rests: Sequence[bytes], first_tokens: _FirstTokens) -> None:
        """Add the first tokens of rests: encode the text with each rest, and with continuations that may matter."""
        candidates = self._tokens_after(prefix, [shortest_texts(prefix.data + rest) for rest in rests])
        undecided: list[tuple[bytes, int]] = []
        for rest, tokens in zip(rests, candidates, strict=True):
            token = tokens[0] if tokens else INCOMPATIBLE
            is_open = len(set(tokens)) > 1 or self._begins_longer_token(token, rest)
            first_tokens[rest] = token, is_open
            if not is_open and not self._has_safe_cut(prefix.data, rest):
                undecided.append((rest, token))
        texts = [self._continuations(prefix.data, rest) for rest, _ in undecided]
        for (rest, token), tokens in zip(undecided, self._tokens_after(prefix, texts), strict=True):
            first_tokens[rest] = token, any(other != token for other in tokens)

    def _tokens_after(self, prefix: Prefix, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the token after the prefix in each of several texts, for each of n rests."""
        size = len(prefix.ids)
        encodings = iter(self._validity.encode_batch([text for of_rest in texts for text in of_rest]))

        def token_after(ids: list[int]) -> int:
            return ids[size] if tuple(ids[:size]) == prefix.ids and len(ids) > size else INCOMPATIBLE

        return [[token_after(next(encodings)) for _ in of_rest] for of_rest in texts]

    def _begins_longer_token(self, token: int, rest: bytes) -> bool:
        low, high = prefix_bounds(self._validity.lexicon.tokens, rest)
        return token != INCOMPATIBLE and low < high

    def _has_safe_cut(self, data: bytes, rest: bytes) -> bool:
        """Return whether the target always cuts inside the rest, so that the tokens before the cut stay."""
        text = (data + rest).decode(errors="ignore")
        return len(text[: self._validity.last_safe_cut(text)].encode()) > len(data)

    def _continuations(self, data: bytes, rest: bytes) -> list[str]:
        """Return texts that continue the rest: with one character of each sort, and to the ends of overlapping tokens.

        If a longer text has other tokens, then one of them begins somewhere in the rest and reaches beyond it.
        """
        texts = longer_texts(data + rest)
        for size in range(1, len(rest) + 1):
            for ending in self._overlapping(rest[-size:]):
                texts += shortest_texts(data + rest + ending)
        return texts

    def _find_overlapping(self, data: bytes) -> list[bytes]:
        """Return the further bytes of the shortest tokens that begin with some bytes."""
        tokens = self._validity.lexicon.tokens
        low, high = prefix_bounds(tokens, data)
        return [token[len(data) :] for token in sorted(tokens[low:high], key=len)[:_MAX_OVERLAPPING_TOKENS]]
