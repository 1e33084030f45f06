"""Look-ahead: a source token's mass is split over target tokens by what the source says after it.

Where a target token may be longer than the source token w at its beginning, what follows w decides. A carry splits
w's mass p(w) by u(y, w): p_T(y) R[y, w] (informed) or C[y, w] (static). With the source's own p(v | w),

    q(y) = p(w) p(v | w) long(v) u(y, w) / sum of u over the group of v     for the target tokens y of v's group

where the group of v are the target tokens longer than w that the text w v may begin with: the one that the target's
tokenizer cuts from it, or, where that may run on, all that begin with it. long(v) is 1 where the target's tokenizer
joins w and v; where it need not, what the carry gives the group, beside the tokens that end with w or before.
What is left of p(w) goes to those as the carry splits it.

It takes a further forward of the source for the tokens looked behind, so only those are that much depends on: that
have a good part of the mass, and as the carry has it, would give some of it to longer tokens. The token that the
text goes on with is often among them, and then it has been read already.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment, Vocabulary
from vocabridge.projection import SparseMatrix

_WORTH = 0.02
"""Mass that has to be at stake for a source token to be looked behind."""

_MOST = 4
"""How many tokens are looked behind at one position."""

_LONGER = 1024
"""How many longer target tokens of a source token are told apart: the most counted ones."""

_CONTINUING = 64
"""Source tokens that begin with the rest of a target token are looked at where they are at most so many."""

_TINY = 1e-37


@dataclass(frozen=True)
class Longer:
    """The target tokens longer than a source token w, by the source tokens v that may follow it.

    Attributes:
        targets: The target tokens, int64 (m,).
        rows: R[y, w] of each, float32 (m,).
        columns: C[y, w] of each, float32 (m,).
        members: The groups, as pairs: index into `targets`, int64 (k,).
        groups: And index into `following`, int64 (k,).
        following: v of every group, int64 (g,).
        joined: Whether the target's tokenizer joins w and v, float32 (g,).
    """

    targets: Tensor
    rows: Tensor
    columns: Tensor
    members: Tensor
    groups: Tensor
    following: Tensor
    joined: Tensor


@dataclass(frozen=True)
class Ahead:
    """What a source says after K of its tokens, at n positions.

    Attributes:
        position: At which of the positions, int64 (K,).
        token: Which token w, int64 (K,).
        after: The donors' probabilities of what follows it, in the order of the carry's donors, float32 (m, K, |S|).
        longer: The longer target tokens of each.
    """

    position: Tensor
    token: Tensor
    after: Tensor
    longer: tuple[Longer, ...]

    def split(self, p: Tensor, image: Tensor, p_target: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Splits the mass of the tokens that were looked behind.

        Args:
            p: The donors' distributions, (m, n, |S|).
            image: The sum of u over all target tokens, (n, |S|).
            p_target: p_T for the informed carry, (n, |T|); None for the static one.

        Returns:
            For each of the K tokens what stands for p(w) / image(w) in the carry's product, (m, K); and what is to
            be added afterwards, (m, M), to the target tokens (M,) at the positions (M,).
        """
        device = p.device
        of = _repeated([len(one.targets) for one in self.longer], device)
        targets = torch.cat([one.targets for one in self.longer])
        at = self.position[of]
        if p_target is None:
            u = torch.cat([one.columns for one in self.longer])
        else:
            u = torch.cat([one.rows for one in self.longer]) * p_target[at, targets]
        count = len(self.longer)
        total = image[self.position, self.token]
        short = (total - u.new_zeros(count).index_add_(0, of, u)).clamp_min(0.0) + 1e-6 * total + _TINY
        members = _offset([one.members for one in self.longer], [len(one.targets) for one in self.longer])
        groups = _offset([one.groups for one in self.longer], [len(one.following) for one in self.longer])
        group_of = _repeated([len(one.following) for one in self.longer], device)
        following = torch.cat([one.following for one in self.longer])
        in_group = u.new_zeros(len(following)).index_add_(0, groups, u[members]) + _TINY
        joined = torch.cat([one.joined for one in self.longer])
        long = torch.maximum(joined, in_group / (in_group + short[group_of]))
        p_w = p[:, self.position, self.token]
        mass = p_w[:, group_of] * self.after[:, group_of, following] * long
        left = (p_w - torch.zeros_like(p_w).index_add_(1, group_of, mass)).clamp_min(0.0)
        ratio = left / short
        added = -ratio[:, of] * u
        added.index_add_(1, members, (mass / in_group)[:, groups] * u[members])
        return ratio, added, at, targets


def _repeated(counts: Sequence[int], device: torch.device) -> Tensor:
    """0 so often as the first count says, 1 so often as the second, and so on."""
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)


def _offset(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Joins index tensors, each shifted by the sizes before it."""
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return torch.cat([part + start for part, start in zip(parts, starts, strict=True)])


class LookAhead(nn.Module):
    """Knows which source tokens are worth looking behind, and the longer target tokens of each."""

    share: Tensor

    def __init__(self, alignment: Alignment, source: Vocabulary, target: Vocabulary) -> None:
        """Takes the alignment of two vocabularies."""
        super().__init__()
        self._source, self._target = source, target
        self._rows, self._columns = alignment.row_weights.tocsc(), alignment.column_weights.tocsc()
        lengths = [np.array([len(data or b"") for data in v.token_bytes]) for v in (source, target)]
        entries = alignment.row_weights.tocoo()
        longer = lengths[1][entries.coords[0]] > lengths[0][entries.coords[1]]
        longer &= lengths[0][entries.coords[1]] > 0
        rows, columns = alignment.row_weights.copy(), alignment.column_weights.copy()
        rows.data *= longer
        columns.data *= (
            lengths[1][np.repeat(np.arange(columns.shape[0]), np.diff(columns.indptr))] > (lengths[0][columns.indices])
        )
        rows.eliminate_zeros()
        self.longer_rows = SparseMatrix(rows.T.tocsr())
        share = np.asarray(columns.sum(axis=0)).ravel().astype("float32")
        self.register_buffer("share", torch.from_numpy(share), persistent=False)
        self._tables = functools.lru_cache(maxsize=1 << 10)(self._longer)

    def longer(self, w: int) -> Longer:
        """The longer target tokens of a source token, on the device of this module."""
        return self._tables(w, self.share.device)

    def choose(self, p_source: Tensor, image: Tensor | None, p_target: Tensor) -> list[list[int]]:
        """The source tokens that are worth looking behind at each position.

        Args:
            p_source: The donor's distribution, (n, |S|).
            image: R^T p_T, (n, |S|), for the informed carry; None for the static one.
            p_target: The base model's distribution, (n, |T|).

        Returns:
            At most a few source tokens a position. They are needed on the host, as everything is that a model reads.
        """
        share = self.share if image is None else self.longer_rows(p_target) / image
        at_stake, tokens = (p_source * share).topk(min(_MOST, p_source.shape[-1]))
        chosen = torch.where(at_stake > _WORTH, tokens, -1).tolist()
        return [[w for w in several if w >= 0 and len(self.longer(w).following)] for several in chosen]

    def _longer(self, w: int, device: torch.device) -> Longer:
        own = self._source.token_bytes[w] or b""
        part = slice(self._rows.indptr[w], self._rows.indptr[w + 1])
        ys, rows = self._rows.indices[part], self._rows.data[part]
        part = slice(self._columns.indptr[w], self._columns.indptr[w + 1])
        column = dict(zip(self._columns.indices[part].tolist(), self._columns.data[part].tolist(), strict=True))
        data = {y: self._target.token_bytes[y] or b"" for y in ys.tolist()}
        kept = [i for i, y in enumerate(ys.tolist()) if len(data[y]) > len(own) and data[y].startswith(own)]
        kept = sorted(kept, key=lambda i: -column.get(int(ys[i]), 0.0))[:_LONGER] if own else []
        kept.sort(key=lambda i: data[int(ys[i])])
        targets = [int(ys[i]) for i in kept]
        spelled = [data[y] for y in targets]
        place = {y: i for i, y in enumerate(targets)}
        following = self._may_follow(sorted({text[len(own) :] for text in spelled}))
        texts = [own + (self._source.token_bytes[v] or b"") for v in following]
        pairs: list[tuple[int, int]] = []
        groups: list[int] = []
        joined: list[float] = []
        for v, text, cut in zip(following, texts, self._target.segment_batch(texts), strict=True):
            first = cut[0] if cut else -1
            size = len(self._target.token_bytes[first] or b"") if cut else 0
            if len(own) < size < len(text):
                members = [place[first]] if first in place else []
            else:
                low = bisect.bisect_left(spelled, text)
                members = list(range(low, bisect.bisect_left(spelled, text + b"\xff" * 8, low)))
            if members:
                pairs += [(i, len(groups)) for i in members]
                groups.append(v)
                joined.append(float(size > len(own)))
        index = np.array(pairs, np.int64).reshape(-1, 2)
        return Longer(
            targets=torch.tensor(targets, dtype=torch.int64, device=device),
            rows=torch.tensor(rows[kept], dtype=torch.float32, device=device),
            columns=torch.tensor([column.get(y, 0.0) for y in targets], dtype=torch.float32, device=device),
            members=torch.from_numpy(index[:, 0].copy()).to(device),
            groups=torch.from_numpy(index[:, 1].copy()).to(device),
            following=torch.tensor(groups, dtype=torch.int64, device=device),
            joined=torch.tensor(joined, dtype=torch.float32, device=device),
        )

    def _may_follow(self, rests: Sequence[bytes]) -> list[int]:
        """The source tokens that begin these bytes, and those few that begin with them."""
        firsts = {ids[0] for ids in self._source.segment_batch(rests) if ids}
        ordered = self._sorted
        for rest in rests:
            low = bisect.bisect_left(ordered, rest)
            high = bisect.bisect_left(ordered, rest + b"\xff" * 8, low)
            if high - low <= _CONTINUING:
                firsts.update(self._source.canonical[data] for data in ordered[low:high])
        return sorted(v for v in firsts if self._source.token_bytes[v])

    @functools.cached_property
    def _sorted(self) -> list[bytes]:
        return sorted(self._source.canonical)
