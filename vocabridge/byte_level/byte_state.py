"""A text byte by byte: the covers that a model's distribution over the next byte is summed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vocabridge.alignment import Place, Rule
from vocabridge.byte_level.cover_state import CoverState, Float32, Float64, Read
from vocabridge.byte_level.cover_validity import half_character
from vocabridge.byte_level.lexicon import Int64
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.prompts import BEGUN, Piece

if TYPE_CHECKING:
    from vocabridge.byte_level.byte_lm import ByteLM


@dataclass(frozen=True)
class NextByte:
    """What may come next in a text.

    Attributes:
        p: What each voice gives to the 256 bytes and to the symbols, (k, 256 + s). Rows sum to 1; one is 0 everywhere
            where no cover of the text is left to a voice: its tokenizer would not make, or its model rules out, every
            one.
        lost: The share of all mass, at most, that has not been read or not been judged.
    """

    p: Float64
    lost: float


class ByteState:
    """A text as a `ByteLM` reads it. What comes after it is another text: one may go on in many ways.

    Attributes:
        model: Whose view it is.
        data: Its bytes behind what is settled: behind the last control token, or the last place where the tokenizer
            always cuts.
        forest: What its covers, and those of all texts that began with it, are nodes of.
    """

    def __init__(self, model: ByteLM, forest: TreeDecoder, node: int, data: bytes, covers: list[CoverState]) -> None:
        """A text of which `node` is the last settled token, and these are the covers behind it."""
        self.model = model
        self.data = data
        self.forest = forest
        self._node = node
        self._covers = covers
        self._woken = 0
        self._next: NextByte | None = None
        self._unopened: ByteState | None = None
        self._spares: tuple[bytes, ...] = ()

    def _open(self, place: Place) -> ByteState:
        """Reads the space that the tokenizer puts in front of a text that begins here: it is in no text."""
        rule = self.model.vocabulary.prefix_space.rule(place)
        if rule is Rule.NEVER:
            return self
        text = self._read_bytes(b" ")
        text._unopened, text._spares = self, tuple(one.encode() for one in rule.value)
        return text

    @property
    def settled(self) -> list[int]:
        """The tokens that no continuation will change, the bos token among them."""
        tree = self.forest.trees[0]
        return [tree.tokens[node] for node in tree.ancestors(self._node)]

    @property
    def tokens(self) -> list[int]:
        """The tokens as the text stands, the bos token among them; half a character at its end has none."""
        half = half_character(self.data) or b""
        text = self.data[: len(self.data) - len(half)].decode(errors="replace")
        return [*self.settled, *self.model.following.encode(text)]

    def next(self) -> NextByte:
        """What may come next."""
        return next_bytes([self])[0]

    def after(self, *pieces: Piece) -> ByteState:
        """The text that goes on with some bytes and control tokens."""
        text = self
        for piece in pieces:
            text = text._after_symbol(piece) if isinstance(piece, int) else text._after_bytes(piece)
        return text

    def _after_bytes(self, data: bytes) -> ByteState:
        """A text that begins with a space has no other one in front, where the tokenizer sees to that."""
        if data and data.startswith(self._spares):
            assert self._unopened is not None
            return self._unopened._read_bytes(data)
        return self._read_bytes(data) if data else self

    def _read_bytes(self, data: bytes) -> ByteState:
        covers = [found for cover in self._covers for found in self._feed(cover, data)]
        text = ByteState(self.model, self.forest, self._node, self.data + data, covers)
        text._settle()
        return text

    def _after_symbol(self, symbol: int) -> ByteState:
        """A control token ends the text in front of it for good; what is left is its one encoding."""
        if self._unopened is not None:
            return self._unopened._after_symbol(symbol)
        if symbol == BEGUN:
            return self._open(Place.BEHIND_CONTROL)
        ids = self.encoding()
        if ids is None or not self._covers:
            return ByteState(self.model, self.forest, self._node, b"", [])
        node = self.forest.trees[0].add([*ids, symbol], self._node)
        root = CoverState((), node, None, np.zeros(self.model.voices), b"")
        return ByteState(self.model, self.forest, node, b"", [root])._open(Place.BEHIND_CONTROL)

    def _feed(self, cover: CoverState, data: bytes) -> list[CoverState]:
        """What becomes of a cover when the text goes on: itself, and those with one more token that ends there."""
        read, pending, found = cover.read, cover.pending, list[CoverState]()
        if read is None:
            return [replace(cover, pending=pending + data)]
        lexicon = self.model.following.lexicon
        longer = read.run[0]
        for at, byte in enumerate(data, start=1):
            bounds = lexicon.bounds(read.run, len(pending))
            low, high = int(bounds[byte]), int(bounds[byte + 1])
            pending += bytes([byte])
            part = slice(low - read.run[0], high - read.run[0])
            read = replace(read, run=(low, high), p=read.p[:, part], judged=read.judged[part])
            longer = int(lexicon.bounds(read.run, len(pending))[0])
            self.model.judge(cover.tokens, read, np.arange(low, longer))
            for i in range(longer - low):
                if read.p[:, i].any():
                    with np.errstate(divide="ignore"):  # of two voices, one may rule it out
                        log_p = cover.log_p + np.log(read.p[:, i].astype(np.float64))
                    token = int(lexicon.ids[low + i])
                    found.append(CoverState((*cover.tokens, token), read.node, token, log_p, data[at:]))
        if read.p[:, longer - read.run[0] :].any():
            found.append(replace(cover, pending=pending, read=read))
        return found

    def encoding(self) -> tuple[int, ...] | None:
        """The tokens of what is not settled as it stands; None where it ends inside of a character."""
        try:
            return self.model.following.encode(self.data.decode())
        except UnicodeDecodeError:
            return None

    def _settle(self) -> None:
        """Drops the covers that do not cut where the tokenizer always does; all, where the bytes are no text."""
        following = self.model.following
        half = half_character(self.data)
        if half is None:
            self._covers = []
            return
        text = self.data[: len(self.data) - len(half)].decode()
        cut = following.settled(text)
        if not cut:
            return
        ids = following.encode(text[:cut])
        size = len(ids)
        agreeing = [cover for cover in self._covers if cover.tokens[:size] == ids[: len(cover.tokens)]]
        if len(agreeing) == 1 and agreeing[0].read is None and len(agreeing[0].tokens) < size:
            node, done = self.forest.trees[0].add(ids, self._node), len(text[:cut].encode())
            agreeing = [CoverState(ids, node, None, np.zeros(self.model.voices), self.data[done:])]
        self._covers = agreeing
        if agreeing and all(len(cover.tokens) >= size for cover in agreeing):
            self._node = self.forest.trees[0].add(ids, self._node)
            self.data = self.data[len(text[:cut].encode()) :]
            self._covers = [replace(cover, tokens=cover.tokens[size:]) for cover in agreeing]

    def _scale(self) -> Float64:
        """The weights of the covers, (covers, k), each voice's highest 1."""
        log_p = np.stack([cover.log_p for cover in self._covers])
        highest = log_p.max(0)
        return np.exp(log_p - np.where(np.isfinite(highest), highest, 0.0))

    def _longer(self, cover: CoverState, read: Read) -> int:
        """Where the tokens of a read cover begin that are longer than what is pending; the others end in the text."""
        return int(self.model.following.lexicon.bounds(read.run, len(cover.pending))[0])

    def ways(self) -> list[tuple[CoverState, Read, Float64, int]]:
        """What `next` has read.

        Returns:
            Covers, what follows each, the weight of each, (k,), and the place in the lexicon from which on the tokens
            that follow are longer than the text.
        """
        weights = self._scale() if self._covers else ()
        return [
            (cover, cover.read, weight, self._longer(cover, cover.read))
            for cover, weight in zip(self._covers, weights, strict=True)
            if cover.read
        ]

    def _mass(self, weights: Float64) -> Float64:
        """The mass of the covers that have been read, (k,)."""
        mass = np.zeros(self.model.voices)
        for cover, weight in zip(self._covers, weights, strict=True):
            if cover.read is not None:
                first = self._longer(cover, cover.read) - cover.read.run[0]
                mass += weight * cover.read.p[:, first:].sum(1, dtype=np.float64)
                if not cover.pending:
                    mass += weight * cover.read.symbols.sum(1, dtype=np.float64)
        return mass

    def _judge_enough(self, weights: Float64) -> float:
        """Judges the likely tokens, until those that are not judged have next to no mass; the share that they have."""
        read = [(cover, cover.read, weight) for cover, weight in zip(self._covers, weights, strict=True) if cover.read]
        before, mass = np.full(self.model.voices, np.inf), self._mass(weights)
        left = 0.0
        while (mass < before / 2).any():  # what is left is a greater share when other things turn out to be nothing
            left = 0.0
            for cover, said, weight in read:
                first = self._longer(cover, said)
                share = share_of(weight[:, None] * said.p[:, first - said.run[0] :], mass[:, None]).max(0)
                open_ = np.flatnonzero((share > 0) & ~said.judged[first - said.run[0] :])
                chosen, unjudged = likeliest(share[open_], self.model.tolerance / len(read))
                self.model.judge(cover.tokens, said, first + open_[chosen])
                left += unjudged
            before, mass = mass, self._mass(weights)
        return left

    def _to_wake(self) -> list[int]:
        """The sleeping covers that have to be read."""
        asleep = [i for i, cover in enumerate(self._covers) if cover.read is None]
        if not asleep:
            return []
        weights = self._scale()
        self._judge_enough(weights)
        mass = self._mass(weights)
        share = share_of(weights[asleep], mass + weights[asleep].sum(0)).max(1)
        chosen, _ = likeliest(share, self.model.tolerance)
        if self.model.beam is not None:
            chosen = chosen[: max(self.model.beam - self._woken, 0 if mass.any() else 1)]
        return [asleep[i] for i in chosen.tolist()]

    def _wake(self, i: int, node: int, p: Float32) -> None:
        """A cover was read, and this follows it: tokens and symbols, (k, m + s)."""
        cover = self._covers[i]
        read = self.model.behind(cover.tokens, node, p)
        self._woken += 1
        woken = replace(cover, pending=b"", read=read)
        self._covers[i : i + 1] = self._feed(woken, cover.pending) if cover.pending else [woken]

    def _by_byte(self, cover: CoverState, weight: Float64) -> Float64:
        """The mass of a cover that has been read, by the byte or symbol that comes next, (k, 256 + s)."""
        found = np.zeros((self.model.voices, 256 + len(self.model.symbols)))
        if cover.read is not None:
            bounds = self.model.following.lexicon.bounds(cover.read.run, len(cover.pending)) - cover.read.run[0]
            filled = np.flatnonzero(bounds[1:] > bounds[:-1])
            if len(filled):
                found[:, filled] = np.add.reduceat(cover.read.p, bounds[filled], axis=1, dtype=np.float64)
            if not cover.pending and cover.tokens == self.encoding():
                found[:, 256:] = cover.read.symbols
        return weight[:, None] * found

    def _answer(self) -> NextByte:
        """What may come next, now that enough was read."""
        p = np.zeros((self.model.voices, 256 + len(self.model.symbols)))
        if not self._covers:
            return NextByte(p, 0.0)
        weights = self._scale()
        unjudged = self._judge_enough(weights)
        asleep = np.zeros(self.model.voices)
        for cover, weight in zip(self._covers, weights, strict=True):
            if cover.read is None:
                asleep += weight
            p += self._by_byte(cover, weight)
        total = p.sum(1, keepdims=True)
        lost = float(share_of(asleep, asleep + total[:, 0]).max()) + unjudged
        return NextByte(share_of(p, total), lost)

    def _is_cut(self, cover: CoverState, size: int) -> bool:
        """Whether a cover's last token ends with the text, and has its last so many bytes."""
        last = self.forest.trees[0].tokens[cover.parent] if cover.last is None else cover.last
        return not cover.pending and len(self.model.vocabulary.token_bytes[last] or b"") >= size

    def cuts(self, size: int) -> Float64:
        """How likely it is that a token ends here which has the last bytes.

        Args:
            size: So many of the last bytes.

        Returns:
            By what comes next, byte or symbol, the share of its mass that is of such covers, (k, 256 + s).
        """
        self.next()
        p = np.zeros((2, self.model.voices, 256 + len(self.model.symbols)))
        for cover, weight in zip(self._covers, self._scale() if self._covers else (), strict=True):
            p[int(self._is_cut(cover, size))] += self._by_byte(cover, weight)
        return share_of(p[1], p.sum(0))

    def cut(self, size: int) -> ByteState:
        """The text of which is known that a token ends here which has the last bytes, so many of them."""
        covers = [cover for cover in self._covers if self._is_cut(cover, size)]
        return ByteState(self.model, self.forest, self._node, self.data, covers)


def next_bytes(texts: Sequence[ByteState]) -> list[NextByte]:
    """What may come next in each of some texts that began as one; what has to be read, is read in one forward."""
    while wanted := [(text, i) for text in texts if text._next is None for i in sorted(text._to_wake(), reverse=True)]:
        forest = texts[0].forest
        covers = [text._covers[i] for text, i in wanted]
        tree = forest.trees[0]
        nodes = [tree.add(() if cover.last is None else (cover.last,), cover.parent) for cover in covers]
        for (text, i), node, p in zip(wanted, nodes, texts[0].model.read(forest, nodes), strict=True):
            text._wake(i, node, p)
    for text in texts:
        text._next = text._next or text._answer()
    return [text._next for text in texts if text._next is not None]


def share_of(part: Float64, whole: Float64) -> Float64:
    """A part of a whole; 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def likeliest(shares: Float64, tolerance: float) -> tuple[Int64, float]:
    """The greatest of some shares, so many that the others have no more than the tolerance.

    Returns:
        Their places, greatest first; and what the others have.
    """
    total = float(shares.sum())
    if total <= tolerance:
        return np.zeros(0, np.int64), total
    high = shares > tolerance / len(shares)
    places = np.flatnonzero(high)
    places = places[np.argsort(-shares[places], kind="stable")]
    # What is left without the first, the first two and so on, added up from the least.
    left = float(shares[~high].sum()) + np.append(np.cumsum(shares[places[::-1]])[-2::-1], 0.0)
    count = int(np.argmax(left <= tolerance)) + 1
    return places[:count], float(left[count - 1])
