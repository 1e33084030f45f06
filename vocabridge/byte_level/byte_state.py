"""A text as a byte-level model reads it: its covers, and the distribution over the next byte that sums over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vocabridge.alignment import Place, Rule
from vocabridge.alignment.arrays import Float32, Float64
from vocabridge.byte_level.cover_state import Continuations, CoverState
from vocabridge.byte_level.cover_validity import partial_utf8
from vocabridge.byte_level.shares import ratio, select_largest
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.prompts import BOS_READ, Piece

if TYPE_CHECKING:
    from vocabridge.byte_level.byte_lm import ByteLM


@dataclass(frozen=True)
class NextByte:
    """The distribution over the next byte of a text.

    Attributes:
        p: In each of k distributions, the probabilities of the 256 bytes and of the s control tokens, (k, 256 + s).
            Rows sum to 1. A row is 0 everywhere if no cover of the text is left, because the tokenizer would not make
            or the model rules out every one.
        lost: The greatest share of the mass that may be unevaluated or unchecked.
    """

    p: Float64
    lost: float


class EvaluatedCover(NamedTuple):
    """A cover that has been evaluated.

    Attributes:
        cover: The cover.
        continuations: The tokens that may follow it.
        weight: Its probability in each distribution, (k,), up to a factor that all covers share.
        first_longer: The lexicon index from which on its continuations reach beyond the end of the text.
    """

    cover: CoverState
    continuations: Continuations
    weight: Float64
    first_longer: int


class ByteState:
    """A text as a `ByteLM` reads it. It is immutable to its users: `after` returns another, longer text.

    Attributes:
        model: The model.
        data: The bytes of the text that are not committed: those after the last control token and the last safe cut.
        decoder: The token tree and the KV cache that this text shares with all texts that began as it did.
    """

    def __init__(
        self, model: ByteLM, decoder: TreeDecoder, committed_node: int, data: bytes, covers: list[CoverState]
    ) -> None:
        """Make the text of a committed node, with bytes after it and the covers of these bytes."""
        self.model = model
        self.data = data
        self.decoder = decoder
        self._committed_node = committed_node
        self._covers = covers
        self._next: NextByte | None = None
        # Set where nothing but the tokenizer's prefix space has been read: the text without the space. It replaces this
        # text if one of the beginnings below follows, because the tokenizer writes no space before them.
        self._without_space: ByteState | None = None
        self._beginnings_without_space: tuple[bytes, ...] = ()

    @classmethod
    def begin(cls, model: ByteLM, decoder: TreeDecoder, node: int, place: Place) -> ByteState:
        """Begin a text after a node, with the prefix space that the tokenizer puts in front of a text at this place."""
        cover = CoverState((), node, None, np.zeros(model.num_distributions), b"")
        return cls(model, decoder, node, b"", [cover])._with_prefix_space(place)

    def _with_prefix_space(self, place: Place) -> ByteState:
        rule = self.model.vocabulary.prefix_space.rule(place)
        if rule is Rule.NEVER:
            return self
        text = self._append(b" ")
        text._without_space = self
        text._beginnings_without_space = tuple(beginning.encode() for beginning in rule.value)
        return text

    @property
    def committed_ids(self) -> list[int]:
        """The ids of the tokens that no continuation changes, the bos token included."""
        tree = self.decoder.trees[0]
        return [tree.tokens[node] for node in tree.ancestors(self._committed_node)]

    @property
    def ids(self) -> list[int]:
        """The ids of the text if it ended here, the bos token included, without a partial character at its end."""
        partial = partial_utf8(self.data) or b""
        text = self.data[: len(self.data) - len(partial)].decode(errors="replace")
        return [*self.committed_ids, *self.model.validity.encode(text)]

    def next(self) -> NextByte:
        """Return the distribution over the next byte; covers that have to be evaluated take one forward together."""
        if self._next is None:
            tree = self.decoder.trees[0]
            while indices := self._covers_to_evaluate():
                covers = [self._covers[i] for i in indices]
                nodes = [tree.add(() if cover.last is None else (cover.last,), cover.parent) for cover in covers]
                for i, node, p in zip(indices, nodes, self.model.predict(self.decoder, nodes), strict=True):
                    self._evaluate(i, node, p)
            self._next = self._distribution()
        return self._next

    def after(self, *pieces: Piece) -> ByteState:
        """Return the text that continues with some bytes and control tokens."""
        text = self
        for piece in pieces:
            text = text._after_control(piece) if isinstance(piece, int) else text._after_bytes(piece)
        return text

    def _after_bytes(self, data: bytes) -> ByteState:
        if data and data.startswith(self._beginnings_without_space):
            assert self._without_space is not None
            return self._without_space._append(data)
        return self._append(data) if data else self

    def _append(self, data: bytes) -> ByteState:
        covers = [longer for cover in self._covers for longer in self._advance(cover, data)]
        text = ByteState(self.model, self.decoder, self._committed_node, self.data + data, covers)
        text._commit_to_safe_cut()
        return text

    def _after_control(self, control_id: int) -> ByteState:
        """Commit the encoding of the text so far, because a control token ends it, and begin another text."""
        if self._without_space is not None:
            return self._without_space._after_control(control_id)
        if control_id == BOS_READ:
            return self._with_prefix_space(Place.AFTER_CONTROL)
        ids = self.encoding()
        if ids is None or not self._covers:
            return ByteState(self.model, self.decoder, self._committed_node, b"", [])
        node = self.decoder.trees[0].add([*ids, control_id], self._committed_node)
        return ByteState.begin(self.model, self.decoder, node, Place.AFTER_CONTROL)

    def _advance(self, cover: CoverState, data: bytes) -> list[CoverState]:
        """Return what a cover becomes when the text grows by some bytes: itself, and covers with one more token."""
        continuations, pending, covers = cover.continuations, cover.pending, list[CoverState]()
        if continuations is None:
            return [replace(cover, pending=pending + data)]
        lexicon = self.model.validity.lexicon
        first_longer = continuations.tokens[0]
        for end, byte in enumerate(data, start=1):
            bounds = lexicon.bounds(continuations.tokens, len(pending))
            low, high = int(bounds[byte]), int(bounds[byte + 1])
            pending += bytes([byte])
            part = slice(low - continuations.tokens[0], high - continuations.tokens[0])
            p, checked = continuations.p[:, part], continuations.checked[part]
            continuations = replace(continuations, tokens=(low, high), p=p, checked=checked)
            first_longer = self._first_longer(continuations, pending)
            self.model.check(cover.tokens, continuations, np.arange(low, first_longer))
            for i in range(first_longer - low):
                if continuations.p[:, i].any():
                    with np.errstate(divide="ignore"):  # one of two distributions may have a probability of 0
                        log_p = cover.log_p + np.log(continuations.p[:, i].astype(np.float64))
                    token = int(lexicon.ids[low + i])
                    covers.append(CoverState((*cover.tokens, token), continuations.node, token, log_p, data[end:]))
        if continuations.p[:, first_longer - continuations.tokens[0] :].any():
            covers.append(replace(cover, pending=pending, continuations=continuations))
        return covers

    def encoding(self) -> tuple[int, ...] | None:
        """Return the ids of `data` if the text ended here; None if it ends inside a character."""
        try:
            return self.model.validity.encode(self.data.decode())
        except UnicodeDecodeError:
            return None

    def _commit_to_safe_cut(self) -> None:
        """Drop the covers that disagree with the encoding up to the last safe cut, and commit it once all agree.

        If no text has the bytes, all covers are dropped.
        """
        validity = self.model.validity
        partial = partial_utf8(self.data)
        if partial is None:
            self._covers = []
            return
        text = self.data[: len(self.data) - len(partial)].decode()
        cut = validity.last_safe_cut(text)
        if not cut:
            return
        ids, size = validity.encode(text[:cut]), len(text[:cut].encode())
        agreeing = [cover for cover in self._covers if cover.tokens[: len(ids)] == ids[: len(cover.tokens)]]
        if len(agreeing) == 1 and agreeing[0].continuations is None and len(agreeing[0].tokens) < len(ids):
            # The only cover is not evaluated up to the cut, so the tokens up to the cut replace it without a forward.
            node = self.decoder.trees[0].add(ids, self._committed_node)
            agreeing = [CoverState(ids, node, None, np.zeros(self.model.num_distributions), self.data[size:])]
        self._covers = agreeing
        if agreeing and all(len(cover.tokens) >= len(ids) for cover in agreeing):
            self._committed_node = self.decoder.trees[0].add(ids, self._committed_node)
            self.data = self.data[size:]
            self._covers = [replace(cover, tokens=cover.tokens[len(ids) :]) for cover in agreeing]

    def _weights(self) -> Float64:
        """Return the weights of the covers, (covers, k), scaled so that the highest in each distribution is 1."""
        log_p = np.stack([cover.log_p for cover in self._covers])
        highest = log_p.max(0)
        return np.exp(log_p - np.where(np.isfinite(highest), highest, 0.0))

    def _first_longer(self, continuations: Continuations, pending: bytes) -> int:
        """Return the lexicon index from which on tokens are longer than the pending bytes."""
        return int(self.model.validity.lexicon.bounds(continuations.tokens, len(pending))[0])

    def evaluated_covers(self, weights: Float64 | None = None) -> list[EvaluatedCover]:
        """Return the covers that have been evaluated; call `next` before.

        Args:
            weights: The weights of all covers, (covers, k); by default they are computed.
        """
        if not self._covers:
            return []
        return [
            EvaluatedCover(cover, cover.continuations, weight, self._first_longer(cover.continuations, cover.pending))
            for cover, weight in zip(self._covers, self._weights() if weights is None else weights, strict=True)
            if cover.continuations is not None
        ]

    def _evaluated_mass(self, weights: Float64) -> Float64:
        """Return the mass of the evaluated covers, in each distribution, (k,)."""
        mass = np.zeros(self.model.num_distributions)
        for cover, continuations, weight, first_longer in self.evaluated_covers(weights):
            first = first_longer - continuations.tokens[0]
            mass += weight * continuations.p[:, first:].sum(1, dtype=np.float64)
            if not cover.pending:
                mass += weight * continuations.p_control.sum(1, dtype=np.float64)
        return mass

    def _check_likely_tokens(self, weights: Float64) -> float:
        """Check likely tokens until the unchecked ones have at most the tolerance; return the share that they have."""
        evaluated = self.evaluated_covers(weights)
        before, mass = np.full(self.model.num_distributions, np.inf), self._evaluated_mass(weights)
        unchecked_share = 0.0
        # If most of the mass turns out to be invalid, the unchecked tokens have a greater share of the rest.
        while (mass < before / 2).any():
            unchecked_share = 0.0
            for cover, continuations, weight, first_longer in evaluated:
                first = first_longer - continuations.tokens[0]
                share = ratio(weight[:, None] * continuations.p[:, first:], mass[:, None]).max(0)
                unchecked = np.flatnonzero((share > 0) & ~continuations.checked[first:])
                chosen, rest = select_largest(share[unchecked], self.model.tolerance / len(evaluated))
                self.model.check(cover.tokens, continuations, first_longer + unchecked[chosen])
                unchecked_share += rest
            before, mass = mass, self._evaluated_mass(weights)
        return unchecked_share

    def _covers_to_evaluate(self) -> list[int]:
        """Return the indices of the deferred covers that the tolerance does not allow to defer further, descending."""
        deferred = [i for i, cover in enumerate(self._covers) if cover.continuations is None]
        if not deferred:
            return []
        weights = self._weights()
        self._check_likely_tokens(weights)
        share = ratio(weights[deferred], self._evaluated_mass(weights) + weights[deferred].sum(0)).max(1)
        chosen, _ = select_largest(share, self.model.tolerance)
        return sorted((deferred[i] for i in chosen.tolist()), reverse=True)

    def _evaluate(self, i: int, node: int, p: Float32) -> None:
        """Replace a deferred cover by what follows it.

        Args:
            i: The index of the cover.
            node: The node of its last token.
            p: The probabilities of tokens and control tokens after this node, (k, m + s).
        """
        cover = self._covers[i]
        evaluated = replace(cover, pending=b"", continuations=self.model.continuations(cover.tokens, node, p))
        self._covers[i : i + 1] = self._advance(evaluated, cover.pending) if cover.pending else [evaluated]

    def _mass_by_byte(self, cover: CoverState, weight: Float64) -> Float64:
        """Return a cover's mass by the byte or control token that comes next, (k, 256 + s); 0 if it is deferred."""
        mass = np.zeros((self.model.num_distributions, 256 + len(self.model.control_ids)))
        continuations = cover.continuations
        if continuations is not None:
            bounds = self.model.validity.lexicon.bounds(continuations.tokens, len(cover.pending))
            bounds = bounds - continuations.tokens[0]
            possible = np.flatnonzero(bounds[1:] > bounds[:-1])
            if len(possible):
                mass[:, possible] = np.add.reduceat(continuations.p, bounds[possible], axis=1, dtype=np.float64)
            if not cover.pending and cover.tokens == self.encoding():
                mass[:, 256:] = continuations.p_control
        return weight[:, None] * mass

    def _distribution(self) -> NextByte:
        p = np.zeros((self.model.num_distributions, 256 + len(self.model.control_ids)))
        if not self._covers:
            return NextByte(p, 0.0)
        weights = self._weights()
        unchecked_share = self._check_likely_tokens(weights)
        deferred = np.zeros(self.model.num_distributions)
        for cover, weight in zip(self._covers, weights, strict=True):
            if cover.continuations is None:
                deferred += weight
            p += self._mass_by_byte(cover, weight)
        total = p.sum(1, keepdims=True)
        deferred_share = float(ratio(deferred, deferred + total[:, 0]).max())
        return NextByte(ratio(p, total), deferred_share + unchecked_share)

    def _ends_token(self, cover: CoverState, size: int) -> bool:
        """Return whether a cover's last token ends where the text ends and has at least the last `size` bytes."""
        last = self.decoder.trees[0].tokens[cover.parent] if cover.last is None else cover.last
        return not cover.pending and len(self.model.vocabulary.token_bytes[last] or b"") >= size

    def boundary_share(self, size: int) -> Float64:
        """Return how likely it is that a token ends where the text ends, and has at least the last `size` bytes.

        Returns:
            For each byte or control token that may come next, the share of its mass in such covers, (k, 256 + s).
        """
        self.next()
        mass = np.zeros((2, self.model.num_distributions, 256 + len(self.model.control_ids)))
        for cover, weight in zip(self._covers, self._weights() if self._covers else (), strict=True):
            mass[int(self._ends_token(cover, size))] += self._mass_by_byte(cover, weight)
        return ratio(mass[1], mass.sum(0))

    def at_boundary(self, size: int) -> ByteState:
        """Return this text, given that a token ends where it ends and has at least the last `size` bytes."""
        covers = [cover for cover in self._covers if self._ends_token(cover, size)]
        return ByteState(self.model, self.decoder, self._committed_node, self.data, covers)
