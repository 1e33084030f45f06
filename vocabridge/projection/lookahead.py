"""Look-ahead: a source token's mass is split over target tokens by what the source says after it.

Where the target's token at w may be longer than w, or ends elsewhere in it, what follows w decides. A carry splits
w's mass p(w) by u(y, w) = p_T(y) R[y, w] (informed) or C[y, w] (static). With the source's own p(v | w),

    q(y) = p(w) * sum over v of p(v | w) u(y, w) / (sum of u over the candidates of w v),   y among these candidates

where the candidates are the target tokens that a text may begin with which goes on with w and v: the first that the
target's tokenizer cuts from w v, in front of a word where v ends in white space, with R and C of 1, and where the text
may run on in one token, all that begin with it, also those that never stood with w, but then with a small u. A control
token v ends the text in front of it, so the candidate is the token that the target cuts from w alone. What the unlikely
v have of p(w) is split as the carry has it.

It takes a further forward of the source for the tokens looked behind, so only those are that much depends on. At stake
are p(w) log2(1 + other / own) bits: own is what the base gives the target tokens that R has for w, other what it gives
those that are longer, or that are a beginning of w at which the target may have cut a word, or a run of spaces, that
goes on. The target tokens that begin with w are one run of the vocabulary sorted by bytes, so what the base gives them
is a difference of two running sums. The token that the text goes on with is often among those looked behind, and then
it has been read already.
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

from vocabridge.alignment import Alignment, Kind, Vocabulary
from vocabridge.alignment.sparse import sums
from vocabridge.projection.boundary import LETTER, kind
from vocabridge.projection.token_healing import after, run_behind

_WORTH = 0.3
"""Bits that have to be at stake for a source token to be looked behind."""

_LIKELIEST = 16
"""How many source tokens are weighed at a position."""

_MOST = 4
"""How many tokens are looked behind at one position."""

_FOLLOWING = 256
"""How many of the tokens that may follow are told apart: the likeliest ones."""

_RUNNING_ON = 256
"""How many target tokens that begin with w v are told apart: the most frequent ones."""

_BEGINNINGS = 4
"""How many target tokens that are a beginning of w are weighed: the longest ones."""

_STRANGE = 0.01
"""R[y, w] of a target token y that begins with w but has never stood with it; C[y, w] is a hundredth of it."""

_WORD = b"a"
"""What mostly follows white space. It decides how that is cut: the last space goes with the word."""

_BLOCK = 512
"""So many target tokens, in the order of their bytes, are summed up at a time."""

_TINY = 1e-37


@dataclass(frozen=True)
class Candidates:
    """The target tokens that a text may begin with which goes on with w and v.

    Attributes:
        targets: The tokens.
        rows: R[y, w] of each, at least a little; 1 for the one that the target's tokenizer cuts.
        columns: C[y, w] of each, at least a little; 1 for that one.
    """

    targets: tuple[int, ...]
    rows: tuple[float, ...]
    columns: tuple[float, ...]


@dataclass(frozen=True)
class LookaheadSplit:
    """What a source says after K of its tokens, at n positions.

    Attributes:
        position: At which of the positions, int64 (K,).
        token: Which token w, int64 (K,).
        after: The m donors' probabilities of G likely tokens v after some w, float32 (m, G).
        of: After which of the K, int64 (G,).
        candidates: The candidates of each w v, int64 (M,), with `rows` and `columns`, float32 (M,).
        group: To which of the G each belongs, int64 (M,).
    """

    position: Tensor
    token: Tensor
    after: Tensor
    of: Tensor
    candidates: Tensor
    rows: Tensor
    columns: Tensor
    group: Tensor

    def split(self, p: Tensor, image: Tensor, p_target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Splits the mass of the tokens that were looked behind.

        Args:
            p: The donors' distributions, (m, n, |S|).
            image: The sum of u over all target tokens, (n, |S|).
            p_target: p_T for the informed carry, (n, |T|); None for the static one.

        Returns:
            For each of the K tokens what stands for p(w) / image(w) in the carry's product, (m, K); and what is to
            be added afterwards, (m, M), to the candidates at the positions (M,).
        """
        at = self.position[self.of[self.group]]
        u = self.columns if p_target is None else self.rows * p_target[at, self.candidates]
        total = u.new_zeros(self.of.shape).index_add_(0, self.group, u).clamp_min_(_TINY)
        p_w = p[:, self.position, self.token]
        seen = torch.zeros_like(p_w).index_add_(1, self.of, self.after).clamp_max_(1.0)
        mass = p_w[:, self.of] * self.after
        unseen = p_w * (1 - seen) / image[self.position, self.token].clamp_min(_TINY)
        return unseen, (mass / total)[:, self.group] * u, at


class Lookahead(nn.Module):
    """Knows which source tokens are worth looking behind, and what target tokens may come of each."""

    order: Tensor
    low: Tensor
    high: Tensor
    beginnings: Tensor

    def __init__(self, alignment: Alignment, source: Vocabulary, target: Vocabulary) -> None:
        """Takes the alignment of two vocabularies."""
        super().__init__()
        self._source, self._target = source, target
        self._rows, self._columns = alignment.row_weights.tocsc(), alignment.column_weights.tocsc()
        self._frequency = sums(alignment.counts, axis=1)
        order = sorted((data, y) for y, data in enumerate(target.token_bytes) if data)
        self._targets = [y for _, y in order]
        self._spelled = [data for data, _ in order]
        runs = [run_behind(self._spelled, data) if data else (0, 0) for data in source.token_bytes]
        room = -(len(order) + 1) % _BLOCK + 1  # at least one more, whose mass is never asked for
        for name, values in (
            ("order", self._targets + self._targets[:1] * room),
            ("low", [low for low, _ in runs]),
            ("high", [high for _, high in runs]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
        self.register_buffer("beginnings", torch.from_numpy(_beginnings(source, target)), persistent=False)
        self._column = functools.lru_cache(maxsize=1 << 10)(self._both_columns)
        self.candidates = functools.lru_cache(maxsize=1 << 16)(self._may_begin)

    def ahead(self, position: Sequence[int], tokens: Sequence[int], after: Tensor) -> LookaheadSplit:
        """Puts together what the source says after some of its tokens.

        Args:
            position: At which position, for each of K.
            tokens: After which token w.
            after: The m donors' probabilities of what follows, (m, K, |S|), on the device of this module.
        """
        likely = after[0].topk(min(_FOLLOWING, after.shape[-1])).indices.tolist()
        pairs = [
            (k, v, found)
            for k, (w, several) in enumerate(zip(tokens, likely, strict=True))
            for v in several
            if (found := self.candidates(w, v)) is not None
        ]
        of = _integers([k for k, _, _ in pairs], after.device)
        sizes = [len(found.targets) for _, _, found in pairs]
        return LookaheadSplit(
            position=_integers(position, after.device),
            token=_integers(tokens, after.device),
            after=after[:, of, _integers([v for _, v, _ in pairs], after.device)],
            of=of,
            candidates=_integers([y for _, _, found in pairs for y in found.targets], after.device),
            rows=_floats([r for _, _, found in pairs for r in found.rows], after.device),
            columns=_floats([c for _, _, found in pairs for c in found.columns], after.device),
            group=torch.from_numpy(np.repeat(np.arange(len(pairs)), sizes)).to(after.device),
        )

    def choose(self, p_source: Tensor, image: Tensor, p_target: Tensor) -> list[list[int]]:
        """The source tokens that are worth looking behind at each position.

        Args:
            p_source: The donor's distribution, (n, |S|).
            image: R^T p_T, the base's distribution on the source vocabulary, (n, |S|).
            p_target: The base model's distribution, (n, |T|).

        Returns:
            At most a few source tokens a position. They are needed on the host, as everything is that a model reads.
        """
        p, tokens = p_source.topk(min(_LIKELIEST, p_source.shape[-1]))
        longer = self._longer(p_target, tokens)
        beginnings = self.beginnings[tokens]
        shorter = p_target.gather(-1, beginnings.clamp_min(0).flatten(1)).view(beginnings.shape)
        other = longer + (shorter * (beginnings >= 0)).sum(-1)
        at_stake, k = (p * (1 + other / image.gather(-1, tokens)).log2()).topk(min(_MOST, p.shape[-1]))
        chosen = torch.where(at_stake > _WORTH, tokens.gather(-1, k), -1).tolist()
        return [[w for w in several if w >= 0] for several in chosen]

    def _longer(self, p_target: Tensor, tokens: Tensor) -> Tensor:
        """What a base (n, |T|) gives to the target tokens that are longer than some source tokens, (n, k) both.

        A running sum over whole blocks, and within a block what is asked for: one over all takes three times as long.
        """
        ordered = p_target.gather(-1, self.order.expand(len(p_target), -1)).unflatten(-1, (-1, _BLOCK))
        before = torch.nn.functional.pad(ordered.sum(-1).cumsum(-1, dtype=torch.float64), (1, 0))
        within = torch.arange(_BLOCK, device=tokens.device)

        def up_to(place: Tensor) -> Tensor:
            block = place // _BLOCK
            inside = ordered.gather(1, block.unsqueeze(-1).expand(-1, -1, _BLOCK))
            inside = inside * (within < (place % _BLOCK).unsqueeze(-1))
            return before.gather(-1, block) + inside.sum(-1, dtype=torch.float64)

        return (up_to(self.high[tokens]) - up_to(self.low[tokens])).to(p_target.dtype)

    def _may_begin(self, w: int, v: int) -> Candidates | None:
        """The candidates of w v; None where that is no text, or one that the target cannot spell.

        And where the alignment has w speak for no target token: it has no say in a carry, so it gets none here.
        In front of a control token the text ends with w, so the target cuts w as it stands.
        """
        own, more = self._source.token_bytes[w], self._source.token_bytes[v]
        if not own or self._columns.indptr[w] == self._columns.indptr[w + 1]:
            return None
        if self._source.kinds[v] == Kind.CONTROL:
            first = self._first_of(own)
            return Candidates((first,), (1.0,), (1.0,)) if self._spelling(first) else None
        if not more:
            return None
        text = own + more
        alone = first = self._first_of(text)
        if text[-1:].isspace():
            in_front = self._first_of(text + _WORD)
            first = in_front if 0 < len(self._spelling(in_front)) <= len(text) else alone
        size = len(self._spelling(first))
        if not size:
            return None
        running: list[int] = []
        if not len(own) < size < len(text):
            low = bisect.bisect_left(self._spelled, text)
            running = self._targets[low : bisect.bisect_left(self._spelled, after(text), low)]
            running = sorted(running, key=lambda y: -self._frequency[y])[:_RUNNING_ON]
        if alone != first and self._spelling(alone):
            running = [*running, alone]
        rows, columns = self._column(w)
        weights = {y: (max(rows.get(y, 0.0), _STRANGE), max(columns.get(y, 0.0), 0.01 * _STRANGE)) for y in running}
        weights[first] = (1.0, 1.0)
        return Candidates(
            targets=tuple(weights),
            rows=tuple(row for row, _ in weights.values()),
            columns=tuple(column for _, column in weights.values()),
        )

    def _first_of(self, text: bytes) -> int:
        """The token that the target's tokenizer cuts from a text; -1 for none."""
        return (*self._target.segment(text), -1)[0]

    def _spelling(self, y: int) -> bytes:
        return self._target.token_bytes[y] or b"" if y >= 0 else b""

    def _both_columns(self, w: int) -> tuple[dict[int, float], dict[int, float]]:
        """R[., w] and C[., w], their entries."""
        return _entries(self._rows, w), _entries(self._columns, w)


def _beginnings(source: Vocabulary, target: Vocabulary) -> np.ndarray:
    """The target tokens that a text may begin with inside a word, or a run of spaces, that begins with w.

    The one that the target cuts from w itself is not among them. (|S|, a few), -1 for none.
    """
    words = [data for data in source.canonical if kind(data[-1:]) == LETTER or data.isspace()]
    found = np.full((source.size, _BEGINNINGS), -1, np.int64)
    for data, cut in zip(words, target.segment_batch(words), strict=True):
        begun = [data[:size] for size in range(len(data) - 1, 0, -1)]
        shorter = [target.canonical.get(part, -1) for part in begun if part.strip() or data.isspace()]
        several = [y for y in shorter if y >= 0 and y not in cut[:1]][:_BEGINNINGS]
        found[source.canonical[data], : len(several)] = several
    return found


def _integers(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _floats(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _entries(matrix: sp.csc_array, w: int) -> dict[int, float]:
    part = slice(matrix.indptr[w], matrix.indptr[w + 1])
    return dict(zip(matrix.indices[part].tolist(), matrix.data[part].tolist(), strict=True))
