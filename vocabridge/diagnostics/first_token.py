"""The token with which a target tokenizer goes on, and whether what is still to come may change that.

A text so far ends at one of the target's boundaries: its tokens t_1 ... t_i spell it. The text goes on with some bytes,
the *rest*, and after them with what is not known. The next token is the one that follows t_1 ... t_i in the target's
encoding of all of it. Where that encoding does not begin with t_1 ... t_i, the text is one that the target would have
cut otherwise, and so is none of those that are asked about (`ELSEWHERE`).

As in `covers`, what may come is tried. The next token is taken for *open* where longer tokens begin with the rest, or
where one of a few continuations changes it. Behind a place where the tokenizer always cuts only the rest itself
matters, so what it begins with is remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.byte_level.cover_validity import Following, as_it_stands, going_on, half_character
from vocabridge.byte_level.lexicon import Bool, Int64
from vocabridge.projection.token_healing import prefix_bounds

ELSEWHERE = -1
"""In place of a token: the target would not have cut the text so far as it is cut."""

_REACHING_ON = 16
"""So many tokens are tried that reach beyond a text, from each place in it on."""

_REMEMBERED = 1 << 19
"""For so many beginnings of words it is remembered what they begin with."""


@dataclass(frozen=True)
class Front:
    """A text so far, from the last place on where the target's tokenizer always cuts.

    Attributes:
        data: Its bytes.
        ids: The target's tokens that spell them.
    """

    data: bytes = b""
    ids: tuple[int, ...] = ()


class FirstTokens:
    """Of one target vocabulary."""

    def __init__(self, target: Vocabulary) -> None:
        """Takes the target vocabulary.

        Raises:
            VocabridgeError: Its tokenizer changes texts, so that tokens do not spell them.
        """
        self._following = Following(target)
        self._token_bytes = target.token_bytes
        self._known: dict[bytes, tuple[int, bool]] = {}
        self._reaching_on = functools.lru_cache(maxsize=1 << 16)(self._shortest_behind)

    def front(self, data: bytes, ids: Sequence[int]) -> Front:
        """What matters of a text so far.

        Args:
            data: Its bytes.
            ids: The target's tokens, which spell them.
        """
        half = half_character(data) or b""
        text = data[: len(data) - len(half)].decode(errors="replace")
        rest = data[len(text[: self._following.settled(text)].encode()) :]
        first, size = len(ids), 0
        while first and size < len(rest):
            first -= 1
            size += len(self._token_bytes[ids[first]] or b"")
        return Front(rest, tuple(ids[first:]))

    def spells(self, front: Front) -> bool:
        """Whether the target's tokens are the encoding of the text so far, were it to end here."""
        return half_character(front.data) == b"" and self._following.encode(front.data.decode()) == front.ids

    def settling(self, data: bytes) -> Sequence[int]:
        """The bytes before which the tokenizer always cuts, behind these."""
        written = data[-4:].decode(errors="ignore") if half_character(data) == b"" else ""
        return list(self._following.ends(written[-1:]))

    def of(self, front: Front, rests: Sequence[bytes]) -> tuple[Int64, Bool]:
        """What is next where a text goes on with some bytes.

        Args:
            front: The text so far.
            rests: What it goes on with, n times; none is empty.

        Returns:
            The next tokens, or `ELSEWHERE`, int64 (n,), and which of them a continuation may change, (n,).
        """
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        settling = self.settling(front.data)
        behind_cut = [rest for rest in dict.fromkeys(rests) if not front.data or rest[0] in settling]
        found = dict.fromkeys(behind_cut, (ELSEWHERE, False))
        if behind_cut and self.spells(front):
            self._find(Front(), [rest for rest in behind_cut if rest not in self._known], self._known)
            found = {rest: self._known[rest] for rest in behind_cut}
        self._find(front, [rest for rest in dict.fromkeys(rests) if rest not in found], found)
        return (
            np.array([found[rest][0] for rest in rests], np.int64),
            np.array([found[rest][1] for rest in rests], bool),
        )

    def _find(self, front: Front, rests: Sequence[bytes], found: dict[bytes, tuple[int, bool]]) -> None:
        """Encodes the text with each rest as it stands, and with continuations where these may matter."""
        whole = [front.data + rest for rest in rests]
        several = self._tokens(front, [as_it_stands(data) for data in whole])
        unsure: list[tuple[bytes, int]] = []
        for rest, tokens in zip(rests, several, strict=True):
            token = tokens[0] if tokens else ELSEWHERE
            found[rest] = token, False
            if len(set(tokens)) > 1 or self._may_be_longer(token, rest):
                found[rest] = token, True
            elif not self._is_settled(front.data, rest):
                unsure.append((rest, token))
        texts = [self._continuations(front.data, rest) for rest, _ in unsure]
        for (rest, token), tokens in zip(unsure, self._tokens(front, texts), strict=True):
            found[rest] = token, any(other != token for other in tokens)

    def _tokens(self, front: Front, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """The next token in each of several texts, for each of n rests."""
        size = len(front.ids)
        encodings = iter(self._following.encode_batch([text for some in texts for text in some]))
        found = []
        for some in texts:
            ids = [next(encodings) for _ in some]
            found.append(
                [one[size] if tuple(one[:size]) == front.ids and len(one) > size else ELSEWHERE for one in ids]
            )
        return found

    def _may_be_longer(self, token: int, rest: bytes) -> bool:
        """Whether there are tokens of which the rest is only the beginning."""
        low, high = prefix_bounds(self._following.lexicon.tokens, rest)
        return token != ELSEWHERE and low < high

    def _is_settled(self, front: bytes, rest: bytes) -> bool:
        """Whether the tokenizer cuts inside of the rest whatever follows, so that what is before it stays."""
        text = (front + rest).decode(errors="ignore")
        return len(text[: self._following.settled(text)].encode()) > len(front)

    def _continuations(self, front: bytes, rest: bytes) -> list[str]:
        """Texts that begin so: with any letter or sign behind, and with the shortest tokens that reach beyond the rest.

        If the tokens are others in a longer text, one of them reaches beyond the rest, from somewhere in it on.
        """
        texts = going_on(front + rest)
        for size in range(1, len(rest) + 1):
            for more in self._reaching_on(rest[-size:]):
                texts += as_it_stands(front + rest + more)
        return texts

    def _shortest_behind(self, data: bytes) -> list[bytes]:
        """Of the shortest tokens that begin with some bytes what they have behind them."""
        tokens = self._following.lexicon.tokens
        low, high = prefix_bounds(tokens, data)
        return [token[len(data) :] for token in sorted(tokens[low:high], key=len)[:_REACHING_ON]]
