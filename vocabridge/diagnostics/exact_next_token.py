"""The exact distribution of a source model over the target's next token, which every projection approximates.

A text so far ends at one of the target's boundaries, with the target's tokens t_1 ... t_i. The exact distribution is

    q(y) = P(t_1 ... t_i y) / P(t_1 ... t_i),    P(t) the probability of all texts whose encoding begins with t.

P is the source model's, summed over all valid covers (`byte_lm`), the tokens after each cover scaled to those that may
follow it. Neither an alignment nor a base model is used.

The sum is over *leaves*. A leaf is a cover of the text so far and one more source token, which reaches beyond the text.
Its mass counts for the target token that its bytes make the next one (`first_token`), or for none if the target would
not have ended a token here. A leaf is *open* if text that follows may still change this. The most likely open leaves
are extended by one source token, many in one forward, until the open leaves have at most `tolerance` of the mass, or
`rounds` times. The mass of leaves that stay open counts for the tokens of their bytes alone. The result says how much
this is, and how much mass was not examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.alignment.arrays import Bool, Float64, Int64
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.byte_level.byte_state import ByteState
from vocabridge.byte_level.cover_state import Continuations
from vocabridge.byte_level.shares import ratio, select_largest
from vocabridge.diagnostics.first_token import INCOMPATIBLE, FirstTokenFinder, Prefix
from vocabridge.models.control_tokens import shared_control_tokens

TOLERANCE = 0.02
ROUNDS = 3

_UNEXAMINED_SHARE = 1e-3
"""The share of the mass that the least likely leaves, which are not examined, may have."""

_LEAVES_A_FORWARD = 32
"""The number of leaves that one forward extends."""

_MAX_EXTENDED_LEAVES = 2048
"""The number of leaves that one forward may result in. The mass of less likely ones stays open."""

_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class NextTokenDistribution:
    """A source's exact distribution over the target's next token.

    Attributes:
        p: In each of k distributions, the probabilities of the target's tokens, (k, |T|). Rows sum to 1; all are 0 if
            the source rules out every text in which the target would have ended a token here.
        open: The greatest share that text that follows may still move to other tokens.
        lost: The greatest share that was not evaluated, not checked or not examined.
    """

    p: Float64
    open: float
    lost: float


@dataclass(frozen=True)
class _Branch:
    """A cover that a source token may follow.

    Attributes:
        context: The tokens of the cover that decide which may follow.
        continuations: The tokens that may follow.
        rest: The bytes of the cover beyond the text so far.
        pending: With how many bytes of the text so far the next token begins.
    """

    context: tuple[int, ...]
    continuations: Continuations
    rest: bytes = b""
    pending: int = 0


@dataclass(frozen=True)
class _Leaves:
    """Branches with one more source token, n of them.

    Attributes:
        branch: The index of the branch, (n,).
        index: The lexicon index of the source token, (n,).
        mass: The mass in each distribution, (k, n).
        token: The target token that the leaf makes the next, or `INCOMPATIBLE`, (n,).
        open: Whether text that follows may change this token, (n,).
    """

    branch: Int64
    index: Int64
    mass: Float64
    token: Int64
    open: Bool

    def __getitem__(self, chosen: Int64 | Bool) -> _Leaves:
        return _Leaves(
            self.branch[chosen], self.index[chosen], self.mass[:, chosen], self.token[chosen], self.open[chosen]
        )

    def __add__(self, other: _Leaves) -> _Leaves:
        mass = np.concatenate([self.mass, other.mass], 1)
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("branch", "index", "token", "open")]
        branch, index, token, open_ = (np.concatenate(pair) for pair in pairs)
        return _Leaves(branch, index, mass, token, open_)


class ExactPredictor:
    """Computes a source model's exact distribution over a target's next token.

    Attributes:
        model: The source model, or several distributions of one value source.
        tolerance: The share of the mass that may stay open.
        rounds: How many times open leaves are extended at most.
    """

    def __init__(
        self, model: ByteLM, target: Vocabulary, *, tolerance: float = TOLERANCE, rounds: int = ROUNDS
    ) -> None:
        """Prepare for one source and one target vocabulary.

        Raises:
            VocabridgeError: The target's tokenizer changes texts, so its tokens do not spell them.
        """
        self.model = model
        self.tolerance = tolerance
        self.rounds = rounds
        self.first_tokens = FirstTokenFinder(target)
        self.target_size = target.size
        control_tokens = shared_control_tokens(model.vocabulary, target)
        self.target_controls = {source_id: target_id for target_id, source_id in control_tokens.items()}

    def predict(self, text: ByteState, data: bytes, ids: Sequence[int]) -> NextTokenDistribution:
        """Return the distribution of the next token.

        Args:
            text: The text so far, as `model` reads it.
            data: Its bytes, from its beginning or from any other safe cut of the target on.
            ids: The target's tokens that spell these bytes.
        """
        lost = text.next().lost
        return _Prediction(self, text, self.first_tokens.prefix(data, ids)).run(lost)


class _Prediction:
    """The computation of one distribution."""

    def __init__(self, predictor: ExactPredictor, text: ByteState, prefix: Prefix) -> None:
        self._predictor, self._model, self._first_tokens = predictor, predictor.model, predictor.first_tokens
        self._lexicon = self._model.validity.lexicon
        self._text = text
        self._prefix = prefix
        self._branches: list[_Branch] = []
        # The mass of each target token; the last column is that of `INCOMPATIBLE`.
        self._p = np.zeros((self._model.num_distributions, predictor.target_size + 1))
        self._left_open = np.zeros(self._model.num_distributions)  # open mass that will not be extended

    def run(self, lost: float) -> NextTokenDistribution:
        """Compute the distribution; `lost` is the share that is lost of the text so far."""
        leaves, unexamined = self._first_leaves()
        for _ in range(self._predictor.rounds):
            shares = self._shares(leaves)
            chosen, _ = select_largest(shares, self._predictor.tolerance)
            if not len(chosen):
                break
            chosen = chosen[:_LEAVES_A_FORWARD]
            others = np.ones(len(shares), bool)
            others[chosen] = False
            leaves = self._count_closed(self._extend(leaves[chosen], shares[chosen])) + leaves[others]
        self._count(leaves.token, leaves.mass)
        p, total = self._p[:, :-1], self._p[:, :-1].sum(1)
        if not total.all():
            return NextTokenDistribution(np.zeros_like(p), 0.0, 1.0)
        open_share = min(1.0, float(((leaves.mass.sum(1) + self._left_open) / total).max()))
        return NextTokenDistribution(p / total[:, None], open_share, min(1.0, (lost + unexamined) / total.min()))

    def _first_leaves(self) -> tuple[_Leaves, float]:
        """Return the open leaves after the text so far, and the share of leaves that were not examined."""
        masses, branches, indices = [], [], []
        encoding = self._text.encoding()
        p_control = np.zeros((self._model.num_distributions, len(self._model.control_ids)))
        for cover, continuations, weight, first_longer in self._text.evaluated_covers():
            mass = weight[:, None] * continuations.p[:, first_longer - continuations.tokens[0] :]
            masses.append(mass)
            branches.append(np.full(mass.shape[1], len(self._branches)))
            indices.append(np.arange(first_longer, continuations.tokens[1]))
            self._branches.append(_Branch(cover.tokens, continuations, pending=len(cover.pending)))
            if not cover.pending and cover.tokens == encoding:
                p_control = weight[:, None] * continuations.p_control
        total = sum((mass.sum(1) for mass in masses), np.zeros(self._model.num_distributions)) + p_control.sum(1)
        if not masses or not total.all():
            return self._make_leaves([], [], np.zeros((self._model.num_distributions, 0))), 0.0
        may_end = self._first_tokens.may_end(self._prefix)
        for control_id, mass in zip(self._model.control_ids.tolist(), (p_control / total[:, None]).T, strict=True):
            self._p[:, self._predictor.target_controls.get(control_id, INCOMPATIBLE) if may_end else INCOMPATIBLE] += (
                mass
            )
        mass, branch, index = (
            np.concatenate(masses, 1) / total[:, None],
            np.concatenate(branches),
            np.concatenate(indices),
        )
        shares, tolerance, leaves = mass.max(0), _UNEXAMINED_SHARE, self._make_leaves([], [], mass[:, :0])
        while True:
            # If the target rules out nearly all of the mass, the unexamined leaves have to be small beside the rest.
            chosen, unexamined = select_largest(shares, tolerance)
            new = chosen[len(leaves.index) :]
            leaves = leaves + self._make_leaves(branch[new], index[new], mass[:, new])
            compatible = leaves.mass[:, leaves.token != INCOMPATIBLE].sum(1).min()
            if unexamined <= _UNEXAMINED_SHARE * compatible or tolerance < 1e-9:
                return self._count_closed(leaves), unexamined
            tolerance = min(tolerance / 10, _UNEXAMINED_SHARE * float(compatible))

    def _make_leaves(self, branch: Sequence[int] | Int64, index: Sequence[int] | Int64, mass: Float64) -> _Leaves:
        """Make leaves, and find the target token that each makes the next."""
        branch, index = np.asarray(branch, np.int64), np.asarray(index, np.int64)
        rests = []
        for i, token in zip(branch.tolist(), index.tolist(), strict=True):
            rests.append(self._branches[i].rest + self._lexicon.tokens[token][self._branches[i].pending :])
        return _Leaves(branch, index, mass, *self._first_tokens.find(self._prefix, rests))

    def _count_closed(self, leaves: _Leaves) -> _Leaves:
        """Count the mass of the leaves that are not open; return the open ones."""
        closed = leaves[~leaves.open]
        self._count(closed.token, closed.mass)
        return leaves[leaves.open]

    def _count(self, token: Int64, mass: Float64) -> None:
        """Add mass (k, n) to n target tokens."""
        columns = np.where(token == INCOMPATIBLE, self._predictor.target_size, token)
        for p, row in zip(self._p, mass, strict=True):
            p += np.bincount(columns, row, minlength=len(p))

    def _shares(self, leaves: _Leaves) -> Float64:
        """Return the share that each open leaf has of the mass of all target tokens, (n,)."""
        total = self._p[:, :-1].sum(1) + leaves.mass[:, leaves.token != INCOMPATIBLE].sum(1)
        return ratio(leaves.mass, total[:, None]).max(0)

    def _extend(self, leaves: _Leaves, shares: Float64) -> _Leaves:
        """Extend leaves by one source token; the mass that no returned leaf has is counted."""
        validity, tree = self._model.validity, self._text.decoder.trees[0]
        branches = [self._branches[i] for i in leaves.branch.tolist()]
        ids = self._lexicon.ids[leaves.index].tolist()
        nodes = [tree.add((i,), branch.continuations.node) for i, branch in zip(ids, branches, strict=True)]
        p = self._model.predict(self._text.decoder, nodes)
        contexts = [
            validity.context_after(branch.context, index)
            for branch, index in zip(branches, leaves.index.tolist(), strict=True)
        ]
        followers = [self._model.continuations(*each) for each in zip(contexts, nodes, p, strict=True)]
        # Only likely tokens become leaves of their own.
        extended_shares = np.stack([continuations.p.max(0) for continuations in followers]) * shares[:, None]
        likely, _ = select_largest(extended_shares.ravel(), self._predictor.tolerance / 2)
        rows, columns = np.divmod(likely[:_MAX_EXTENDED_LEAVES], extended_shares.shape[1])
        parts = []
        for i, (branch, context, continuations) in enumerate(zip(branches, contexts, followers, strict=True)):
            chosen = columns[rows == i]
            self._model.check(context, continuations, chosen)
            rest = branch.rest + self._lexicon.tokens[leaves.index[i]][branch.pending :]
            p_end = self._p_end(context, continuations)
            scale = leaves.mass[:, i] / (continuations.p.sum(1, dtype=np.float64) + p_end).clip(_TINY)
            cut_before = self._is_cut_before(rest)
            chosen = chosen[~cut_before[chosen] & (continuations.p[:, chosen] > 0).any(0)]
            mass = scale[:, None] * continuations.p[:, chosen]
            closed = scale * (continuations.p[:, cut_before].sum(1, dtype=np.float64) + p_end)
            left_open = (leaves.mass[:, i] - closed - mass.sum(1)).clip(0)
            self._count(leaves.token[i : i + 1], (closed + left_open)[:, None])
            self._left_open += left_open
            parts.append((np.full(len(chosen), len(self._branches)), chosen, mass))
            self._branches.append(_Branch(context, continuations, rest))
        branch_indices, indices, masses = (np.concatenate(arrays, -1) for arrays in zip(*parts, strict=True))
        return self._make_leaves(branch_indices, indices, masses)

    def _is_cut_before(self, rest: bytes) -> Bool:
        """Return the source's tokens before which the target always cuts if they follow the rest, as a mask (m,)."""
        mask = np.zeros(len(self._lexicon.ids), bool)
        bounds = self._lexicon.bounds((0, len(mask)), 0)
        for byte in self._first_tokens.safe_cut_bytes(self._prefix.data + rest):
            mask[bounds[byte] : bounds[byte + 1]] = True
        return mask

    def _p_end(self, context: tuple[int, ...], continuations: Continuations) -> Float64:
        """Return the probability of all control tokens after a context, (k,); 0 if it is not its text's encoding."""
        data = b"".join(self._model.vocabulary.token_bytes[i] or b"" for i in context)
        try:
            encoding = self._model.validity.encode(data.decode())
        except UnicodeDecodeError:
            encoding = ()
        return continuations.p_control.sum(1, dtype=np.float64) * (encoding == context)
