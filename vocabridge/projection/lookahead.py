"""Lookahead: the source's prediction after its own token w decides how the mass of w is split over target tokens.

The target's token at w may be longer than w, or end inside it, which depends on the text after w. A projection method
splits p(w) by p_T(y) R[y, w] (informed) or C[y, w] (static). Lookahead splits it by p(v | w), the source's prediction
after w; `LookaheadSplit` has the equation.

**Candidates.** The candidates of w v are the target tokens that a text may begin with that continues with w and v:

- the first token that the target's tokenizer cuts from the text of w v, or from that text and a word where v ends in
  white space, with R and C of 1;
- where one target token may extend over the whole text of w v, all target tokens that begin with that text, with at
  least a small R and C, because some of them never occurred with w in the corpus.

A control token v ends the text, so the only candidate is the token that the target cuts from w alone.

**Selection.** Lookahead costs a further forward of the source, so it reads only the few tokens w that are expected to
save most bits, p(w) log2(1 + other / aligned). Here `aligned` is (R^T p_T)(w), what the base gives the target tokens
that are aligned with w. `other` is the base's probability of the target tokens that begin with w and are longer, and of
those at which the target may have cut a longer word, or run of spaces, that begins with w. The longer tokens are one
range of the vocabulary sorted by bytes, so their probability is a difference of two cumulative sums. The text often
continues with one of the tokens that lookahead has read, and that token need not be read again.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment, TokenKind, Vocabulary
from vocabridge.alignment.sparse import sums
from vocabridge.projection.boundary import LETTER, character_class
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.lookahead_split import LookaheadSplit
from vocabridge.projection.token_healing import prefix_bounds, upper_bound

_WORD = b"a"
"""Stands for the word that mostly follows white space, because most tokenizers cut the last space with the word."""

_BLOCK = 512
"""The number of target tokens, in the order of their bytes, in each block of the cumulative sum."""


@dataclass(frozen=True)
class Candidates:
    """The target tokens that a text may begin with that continues with w and v.

    Attributes:
        targets: The ids of these tokens.
        row_weights: R[y, w] of each, above 0; 1 for the token that the target's tokenizer cuts.
        column_weights: C[y, w] of each, above 0; 1 for the token that the target's tokenizer cuts.
    """

    targets: tuple[int, ...]
    row_weights: tuple[float, ...]
    column_weights: tuple[float, ...]


class Lookahead(nn.Module):
    """Selects the source tokens that are worth a lookahead, and finds the target tokens that each may become."""

    order: Tensor
    low: Tensor
    high: Tensor
    prefixes: Tensor

    def __init__(self, alignment: Alignment, source: Vocabulary, target: Vocabulary, config: BoundaryConfig) -> None:
        """Prepare the tables for an alignment of two vocabularies."""
        super().__init__()
        self._source, self._target, self._config = source, target, config
        self._rows, self._columns = alignment.row_weights.tocsc(), alignment.column_weights.tocsc()
        self._frequency = sums(alignment.counts, axis=1)
        order = sorted((data, y) for y, data in enumerate(target.token_bytes) if data)
        self._targets = [y for _, y in order]
        self._target_bytes = [data for data, _ in order]
        bounds = [prefix_bounds(self._target_bytes, data) if data else (0, 0) for data in source.token_bytes]
        padding = -(len(order) + 1) % _BLOCK + 1  # at least 1; the mass of the padding is never used
        for name, values in (
            ("order", self._targets + self._targets[:1] * padding),
            ("low", [low for low, _ in bounds]),
            ("high", [high for _, high in bounds]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
        prefixes = _prefixes(source, target, config.lookahead_prefixes)
        self.register_buffer("prefixes", torch.from_numpy(prefixes), persistent=False)
        self._column = functools.lru_cache(maxsize=1 << 10)(self._both_columns)
        self.candidates = functools.lru_cache(maxsize=1 << 16)(self._find_candidates)

    def select(self, p_source: Tensor, on_source: Tensor, p_target: Tensor) -> list[list[int]]:
        """Select the source tokens that are worth a lookahead at n positions.

        Args:
            p_source: The source's distribution, (n, |S|).
            on_source: R^T p_T, the base's distribution on the source vocabulary, (n, |S|).
            p_target: The base model's distribution, (n, |T|).

        Returns:
            For each position, at most `lookahead_tokens` ids of source tokens, the most expected bits first.
        """
        p, tokens = p_source.topk(min(self._config.lookahead_candidates, p_source.shape[-1]))
        prefixes = self.prefixes[tokens]
        shorter = p_target.gather(-1, prefixes.clamp_min(0).flatten(1)).view(prefixes.shape)
        other = self._mass_of_longer(p_target, tokens) + (shorter * (prefixes >= 0)).sum(-1)
        expected_bits = p * (1 + other / on_source.gather(-1, tokens)).log2()
        best, k = expected_bits.topk(min(self._config.lookahead_tokens, p.shape[-1]))
        selected = torch.where(best > self._config.min_expected_bits, tokens.gather(-1, k), -1).tolist()
        return [[w for w in row if w >= 0] for row in selected]

    def split(self, position: Sequence[int], tokens: Sequence[int], p_behind: Tensor) -> LookaheadSplit:
        """Return the split that follows from the source's predictions after K tokens.

        Args:
            position: The index of each token's position.
            tokens: The ids of the tokens w.
            p_behind: The m models' distributions after these tokens, (m, K, |S|), on the device of this module.
        """
        followers = p_behind[0].topk(min(self._config.lookahead_followers, p_behind.shape[-1])).indices.tolist()
        pairs = [
            (k, v, candidates)
            for k, (w, likely) in enumerate(zip(tokens, followers, strict=True))
            for v in likely
            if (candidates := self.candidates(w, v)) is not None
        ]
        device = p_behind.device
        of = _integers([k for k, _, _ in pairs], device)
        sizes = [len(candidates.targets) for _, _, candidates in pairs]
        return LookaheadSplit(
            position=_integers(position, device),
            token=_integers(tokens, device),
            p_follower=p_behind[:, of, _integers([v for _, v, _ in pairs], device)],
            of=of,
            candidates=_integers([y for _, _, candidates in pairs for y in candidates.targets], device),
            row_weights=_floats([r for _, _, candidates in pairs for r in candidates.row_weights], device),
            column_weights=_floats([c for _, _, candidates in pairs for c in candidates.column_weights], device),
            group=torch.from_numpy(np.repeat(np.arange(len(pairs)), sizes)).to(device),
        )

    def _mass_of_longer(self, p_target: Tensor, tokens: Tensor) -> Tensor:
        """Return the base's probability of the target tokens that begin with each source token and are longer.

        The cumulative sum is over whole blocks, and inside a block only over what is needed. One over all tokens takes
        three times as long.

        Args:
            p_target: The base model's distribution, (n, |T|).
            tokens: Ids of source tokens, (n, k).

        Returns:
            The probabilities, (n, k).
        """
        ordered = p_target.gather(-1, self.order.expand(len(p_target), -1)).unflatten(-1, (-1, _BLOCK))
        before = torch.nn.functional.pad(ordered.sum(-1).cumsum(-1, dtype=torch.float64), (1, 0))
        within = torch.arange(_BLOCK, device=tokens.device)

        def cumulative(index: Tensor) -> Tensor:
            block = index // _BLOCK
            inside = ordered.gather(1, block.unsqueeze(-1).expand(-1, -1, _BLOCK))
            inside = inside * (within < (index % _BLOCK).unsqueeze(-1))
            return before.gather(-1, block) + inside.sum(-1, dtype=torch.float64)

        return (cumulative(self.high[tokens]) - cumulative(self.low[tokens])).to(p_target.dtype)

    def _find_candidates(self, w: int, v: int) -> Candidates | None:
        """Return the candidates of w v.

        The result is None where w or v has no bytes and v is no control token, where the target has no token for the
        text, and where the alignment maps w to no target token, because such a w has no part in the projection.
        """
        w_bytes, v_bytes = self._source.token_bytes[w], self._source.token_bytes[v]
        if not w_bytes or self._columns.indptr[w] == self._columns.indptr[w + 1]:
            return None
        if self._source.kinds[v] == TokenKind.CONTROL:
            first = self._first_token(w_bytes)
            return Candidates((first,), (1.0,), (1.0,)) if self._bytes_of(first) else None
        if not v_bytes:
            return None
        text = w_bytes + v_bytes
        alone = first = self._first_token(text)
        if text[-1:].isspace():
            before_word = self._first_token(text + _WORD)
            first = before_word if 0 < len(self._bytes_of(before_word)) <= len(text) else alone
        size = len(self._bytes_of(first))
        if not size:
            return None
        longer: list[int] = []
        if not len(w_bytes) < size < len(text):
            low = bisect.bisect_left(self._target_bytes, text)
            longer = self._targets[low : bisect.bisect_left(self._target_bytes, upper_bound(text), low)]
            longer = sorted(longer, key=lambda y: -self._frequency[y])[: self._config.lookahead_extensions]
        if alone != first and self._bytes_of(alone):
            longer = [*longer, alone]
        rows, columns = self._column(w)
        row_floor, column_floor = self._config.unseen_row_weight, self._config.unseen_column_weight
        weights = {y: (max(rows.get(y, 0.0), row_floor), max(columns.get(y, 0.0), column_floor)) for y in longer}
        weights[first] = (1.0, 1.0)
        return Candidates(
            targets=tuple(weights),
            row_weights=tuple(row for row, _ in weights.values()),
            column_weights=tuple(column for _, column in weights.values()),
        )

    def _first_token(self, text: bytes) -> int:
        """Return the first token that the target's tokenizer cuts from a text; -1 for none."""
        return (*self._target.segment(text), -1)[0]

    def _bytes_of(self, y: int) -> bytes:
        return self._target.token_bytes[y] or b"" if y >= 0 else b""

    def _both_columns(self, w: int) -> tuple[dict[int, float], dict[int, float]]:
        """Return the entries of R[:, w] and of C[:, w], each by target token."""
        return _entries(self._rows, w), _entries(self._columns, w)


def _prefixes(source: Vocabulary, target: Vocabulary, most: int) -> np.ndarray:
    """Return the target tokens at which the target may cut a longer word, or run of spaces, that begins with w.

    These are prefixes of w, the longest first, without the token that the target cuts from w itself.

    Returns:
        Their ids for each source token w, int64 (|S|, most), -1 for none.
    """
    words = [data for data in source.canonical if character_class(data[-1:]) == LETTER or data.isspace()]
    prefixes = np.full((source.size, most), -1, np.int64)
    for data, cut in zip(words, target.segment_batch(words), strict=True):
        parts = [data[:size] for size in range(len(data) - 1, 0, -1)]
        shorter = [target.canonical.get(part, -1) for part in parts if part.strip() or data.isspace()]
        ids = [y for y in shorter if y >= 0 and y not in cut[:1]][:most]
        prefixes[source.canonical[data], : len(ids)] = ids
    return prefixes


def _integers(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _floats(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _entries(matrix: sp.csc_array, w: int) -> dict[int, float]:
    part = slice(matrix.indptr[w], matrix.indptr[w + 1])
    return dict(zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True))
