"""The exact distribution of a target's next token, as a source model has it: what every method is an approximation of.

A text so far ends at one of the target's boundaries, with tokens t_1 ... t_i. The truth about the next one is

    q(y) = P(t_1 ... t_i y) / P(t_1 ... t_i),    P(t) the probability of all texts whose encoding begins with t,

as the source model has it, over all texts that go on from here, by all valid covers (`byte_lm`); behind each cover
its tokens are scaled to those that may follow. No matrix is used, and no base model.

It is added up over *leaves*: covers of the text so far with one source token more, which goes beyond it. Each is
given to the target's token that its bytes make the next (`first_token`), or to none where the target would not have
ended a token here. Where what comes after a leaf may still change that, it is *open*. The likeliest open leaves are
read on, many in one forward, and become leaves that are longer by one token, until those that are open have at most
`tolerance` of the mass or `rounds` are over. What is open then counts as its bytes stand, and the answer says how much
that is, and how much was not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.byte_level.byte_state import ByteState, likeliest, share_of
from vocabridge.byte_level.cover_state import Float64, Read
from vocabridge.byte_level.lexicon import Bool, Int64
from vocabridge.diagnostics.first_token import ELSEWHERE, FirstTokens, Front
from vocabridge.models.control_tokens import shared_control_tokens

TOLERANCE = 0.02
ROUNDS = 3

_UNSEEN = 1e-3
"""The mass of the least likely leaves that are not looked at, as a share of what counts."""

_AT_ONCE = 32
"""Leaves that are read on in one forward."""

_LONGER = 2048
"""Leaves that one forward makes of them, at most; the others' mass stands."""

_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class NextToken:
    """What the next token of the target's is.

    Attributes:
        p: What each voice gives to the target's tokens, (k, |T|). Rows sum to 1; all 0 if the source rules out every
            text of which the target would have ended a token here.
        open: The share of it that a continuation may still give to other tokens, at most.
        lost: The share that was not read, not judged or not looked at, at most.
    """

    p: Float64
    open: float
    lost: float


@dataclass(frozen=True)
class _Branch:
    """A cover behind which a source token may come.

    Attributes:
        tokens: Those that matter for which one may follow.
        read: What follows.
        rest: The bytes that it has beyond the text so far.
        pending: How many bytes of the text so far its next token begins with.
    """

    tokens: tuple[int, ...]
    read: Read
    rest: bytes = b""
    pending: int = 0


@dataclass(frozen=True)
class _Leaves:
    """Branches with one source token more, n of them.

    Attributes:
        branch: Behind which branch, (n,).
        at: The place of the token in the lexicon, (n,).
        mass: Of each voice, (k, n).
        token: The target's token that is next, or `ELSEWHERE`, (n,).
        open: Whether a continuation may change that, (n,).
    """

    branch: Int64
    at: Int64
    mass: Float64
    token: Int64
    open: Bool

    def __getitem__(self, chosen: Int64 | Bool) -> _Leaves:
        return _Leaves(
            self.branch[chosen], self.at[chosen], self.mass[:, chosen], self.token[chosen], self.open[chosen]
        )

    def __add__(self, other: _Leaves) -> _Leaves:
        mass = np.concatenate([self.mass, other.mass], 1)
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("branch", "at", "token", "open")]
        branch, at, token, open_ = (np.concatenate(pair) for pair in pairs)
        return _Leaves(branch, at, mass, token, open_)


class Truth:
    """What a source model says about the next token of a target's.

    Attributes:
        model: The source model, or several voices of one source.
        tolerance: The share of the mass that may stay open.
        rounds: How many times leaves are read on, at most.
    """

    def __init__(
        self, model: ByteLM, target: Vocabulary, *, tolerance: float = TOLERANCE, rounds: int = ROUNDS
    ) -> None:
        """Takes the source, byte by byte, and the target's vocabulary.

        Raises:
            VocabridgeError: The target's tokenizer changes texts, so that its tokens do not spell them.
        """
        self.model = model
        self.tolerance = tolerance
        self.rounds = rounds
        self._first = FirstTokens(target)
        self._size = target.size
        partners = shared_control_tokens(model.vocabulary, target)
        self._controls = {source: token for token, source in partners.items()}

    def next(self, text: ByteState, data: bytes, ids: Sequence[int]) -> NextToken:
        """The distribution of the next token.

        Args:
            text: The text so far, of `model`.
            data: Its bytes, from any place on where the target's tokenizer always cuts, such as its beginning.
            ids: The target's tokens that spell them.
        """
        front = self._first.front(data, ids)
        lost = text.next().lost
        return _Answer(self, text, front).found(lost)


class _Answer:
    """How one answer is come by."""

    def __init__(self, truth: Truth, text: ByteState, front: Front) -> None:
        self._truth, self._model, self._first = truth, truth.model, truth._first
        self._lexicon = self._model.following.lexicon
        self._text = text
        self._front = front
        self._branches: list[_Branch] = []
        # The last place is that of `ELSEWHERE`.
        self._p = np.zeros((self._model.voices, truth._size + 1))
        self._standing = np.zeros(self._model.voices)  # mass that is open, and will not be read on

    def found(self, lost: float) -> NextToken:
        """The answer, where so much of the text's own mass is lost."""
        leaves, unseen = self._begun()
        for _ in range(self._truth.rounds):
            share = self._share(leaves)
            chosen, _ = likeliest(share, self._truth.tolerance)
            if not len(chosen):
                break
            chosen = chosen[:_AT_ONCE]
            read, kept = leaves[chosen], np.ones(len(share), bool)
            kept[chosen] = False
            leaves = self._close(self._read_on(read, share[chosen])) + leaves[kept]
        self._give(leaves.token, leaves.mass)
        p, total = self._p[:, :-1], self._p[:, :-1].sum(1)
        if not total.all():
            return NextToken(np.zeros_like(p), 0.0, 1.0)
        open_ = (leaves.mass.sum(1) + self._standing) / total
        return NextToken(p / total[:, None], min(1.0, float(open_.max())), min(1.0, (lost + unseen) / total.min()))

    def _begun(self) -> tuple[_Leaves, float]:
        """The open leaves behind the text so far, and the share of all leaves that was not looked at."""
        masses, branches, places = [], [], []
        end = self._text.encoding()
        stands = self._first.spells(self._front)
        total = np.zeros(self._model.voices)
        symbols = np.zeros((self._model.voices, len(self._model.symbols)))
        for cover, read, weight, longer in self._text.ways():
            mass = weight[:, None] * read.p[:, longer - read.run[0] :]
            masses.append(mass)
            branches.append(np.full(mass.shape[1], len(self._branches)))
            places.append(np.arange(longer, read.run[1]))
            self._branches.append(_Branch(cover.tokens, read, pending=len(cover.pending)))
            total += mass.sum(1)
            if not cover.pending and cover.tokens == end:
                symbols = weight[:, None] * read.symbols
        total += symbols.sum(1)
        if not masses or not total.all():
            return self._leaves([], [], np.zeros((self._model.voices, 0))), 0.0
        for symbol, mass in zip(self._model.symbols.tolist(), (symbols / total[:, None]).T, strict=True):
            token = self._truth._controls.get(symbol, ELSEWHERE) if stands else ELSEWHERE
            self._p[:, token] += mass
        mass, branch, at = np.concatenate(masses, 1) / total[:, None], np.concatenate(branches), np.concatenate(places)
        share, leaves, tolerance = mass.max(0), None, _UNSEEN
        while True:
            # Of what is not looked at little must count beside what is: the target may rule out nearly all.
            chosen, left = likeliest(share, tolerance)
            new = chosen[len(leaves.at) if leaves else 0 :]
            more = self._leaves(branch[new], at[new], mass[:, new])
            leaves = leaves + more if leaves else more
            counts = leaves.mass[:, leaves.token != ELSEWHERE].sum(1).min()
            if left <= _UNSEEN * counts or tolerance < 1e-9:
                return self._close(leaves), left
            tolerance = min(tolerance / 10, _UNSEEN * float(counts))

    def _leaves(self, branch: Sequence[int] | Int64, at: Sequence[int] | Int64, mass: Float64) -> _Leaves:
        """Leaves, each with the target's token that it makes the next."""
        branch, at = np.asarray(branch, np.int64), np.asarray(at, np.int64)
        rests = []
        for i, place in zip(branch.tolist(), at.tolist(), strict=True):
            behind = self._branches[i]
            rests.append(behind.rest + self._lexicon.tokens[place][behind.pending :])
        return _Leaves(branch, at, mass, *self._first.of(self._front, rests))

    def _close(self, leaves: _Leaves) -> _Leaves:
        """Gives the mass of leaves that are not open to their tokens; the others."""
        closed = leaves[~leaves.open]
        self._give(closed.token, closed.mass)
        return leaves[leaves.open]

    def _give(self, token: Int64, mass: Float64) -> None:
        """Gives mass (k, n) to the target's tokens."""
        places = np.where(token == ELSEWHERE, self._truth._size, token)
        for p, own in zip(self._p, mass, strict=True):
            p += np.bincount(places, own, minlength=len(p))

    def _share(self, leaves: _Leaves) -> Float64:
        """The share of what counts that each of some open leaves has."""
        counts = self._p[:, :-1].sum(1) + leaves.mass[:, leaves.token != ELSEWHERE].sum(1)
        return share_of(leaves.mass, counts[:, None]).max(0)

    def _read_on(self, leaves: _Leaves, share: Float64) -> _Leaves:
        """What becomes of leaves that are read on: leaves that are longer; the rest is given as it stands."""
        following, tree = self._model.following, self._text.forest.trees[0]
        fronts = [self._branches[i] for i in leaves.branch.tolist()]
        ids = self._lexicon.ids[leaves.at].tolist()
        nodes = [tree.add((i,), front.read.node) for i, front in zip(ids, fronts, strict=True)]
        said = self._model.read(self._text.forest, nodes)
        contexts = [following.context(front.tokens, at) for front, at in zip(fronts, leaves.at.tolist(), strict=True)]
        reads = [self._model.behind(*several) for several in zip(contexts, nodes, said, strict=True)]
        # What is likely is looked at one by one; all else in sum, by its first byte.
        shares = np.stack([read.p.max(0) for read in reads]) * share[:, None]
        likely = np.divmod(likeliest(shares.ravel(), self._truth.tolerance / 2)[0][:_LONGER], shares.shape[1])
        parts = []
        for i, (front, tokens, read) in enumerate(zip(fronts, contexts, reads, strict=True)):
            chosen = likely[1][likely[0] == i]
            self._model.judge(tokens, read, chosen)
            rest = front.rest + self._lexicon.tokens[leaves.at[i]][front.pending :]
            ends = self._ends_text(tokens, read)
            scale = leaves.mass[:, i] / (read.p.sum(1, dtype=np.float64) + ends).clip(_TINY)
            settled = self._settled(rest)
            chosen = chosen[~settled[chosen] & (read.p[:, chosen] > 0).any(0)]
            mass = scale[:, None] * read.p[:, chosen]
            final = scale * (read.p[:, settled].sum(1, dtype=np.float64) + ends)
            standing = (leaves.mass[:, i] - final - mass.sum(1)).clip(0)
            self._give(leaves.token[i : i + 1], (final + standing)[:, None])
            self._standing += standing
            parts.append((np.full(len(chosen), len(self._branches)), chosen, mass))
            self._branches.append(_Branch(tokens, read, rest))
        branch, at, mass = (np.concatenate(several, -1) for several in zip(*parts, strict=True))
        return self._leaves(branch, at, mass)

    def _settled(self, rest: bytes) -> Bool:
        """Of the source's tokens those before which the target's tokenizer always cuts, behind these bytes."""
        settled = np.zeros(len(self._lexicon.ids), bool)
        bounds = self._lexicon.bounds((0, len(settled)), 0)
        for byte in self._first.settling(self._front.data + rest):
            settled[bounds[byte] : bounds[byte + 1]] = True
        return settled

    def _ends_text(self, tokens: tuple[int, ...], read: Read) -> Float64:
        """What control tokens have behind some others, (k,): something where these are the encoding of a text."""
        data = b"".join(self._model.vocabulary.token_bytes[i] or b"" for i in tokens)
        try:
            whole = self._model.following.encode(data.decode())
        except UnicodeDecodeError:
            whole = ()
        return read.symbols.sum(1, dtype=np.float64) * (whole == tokens)
