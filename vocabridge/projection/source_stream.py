"""A value source's view of a batch of texts that a base model of another vocabulary writes.

    the base's tokens --bytes--> IncrementalTokenizer --covers--> TreeDecoder --> positions to predict at

At every position, the source's tokens are those of all text so far, and nothing that could be known only from what
follows. Where the text's end need not be the end of one of its own tokens, the policy says whether the source predicts
after the text as it stands, not at all, or after all ways to cut the text (`token_healing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vocabridge.alignment import Place, Rule, Vocabulary
from vocabridge.decoding.incremental_tokenizer import CoverCandidate, IncrementalTokenizer
from vocabridge.decoding.token_tree import ROOT, TokenTree
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.control_tokens import shared_control_tokens
from vocabridge.models.prompts import Piece
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.boundary import LETTER, character_class
from vocabridge.projection.cover_pruning import Step, prune_covers
from vocabridge.projection.positions import CoverNode, Position
from vocabridge.projection.source_predictions import SourcePredictor
from vocabridge.projection.token_healing import TokenHealer


@dataclass
class _Text:
    """One text of the batch.

    Attributes:
        tokenizer: The source's, along this text.
        prompt: What replaces the base's prompt where each model has a prompt of its own.
        pieces: What the text has grown by with each of the base's tokens.
        places: Where the text of the next of these tokens stands, before any and after each.
        committed_node: The node of the last committed id.
        committed: How many ids are committed.
        latest: The position after the last token that was text; None before anyone has asked.
    """

    tokenizer: IncrementalTokenizer
    prompt: tuple[Piece, ...]
    pieces: list[Piece]
    places: list[Place]
    committed_node: int = ROOT
    committed: int = 0
    latest: Position | None = None


class SourceStream:
    """What one value source has read so far, for every row of a batch.

    Attributes:
        source: The value source.
        required_models: Names of its models that read along.
        policy: How predictions are read where tokens do not end together.
        predictor: Predicts at the positions that `advance` returns.
    """

    def __init__(
        self,
        source: ValueSource,
        required_models: set[str],
        healer: TokenHealer,
        policy: BoundaryPolicy,
        batch: int,
        target: Vocabulary | None = None,
    ) -> None:
        """Start with empty texts.

        Args:
            source: The value source.
            required_models: Those of its models whose logits are needed; not empty.
            healer: From its vocabulary to the base's.
            policy: How predictions are read where tokens do not end together.
            batch: Number of rows.
            target: The base's vocabulary, whose ids `pieces` takes; its tokens may hold a space that is in no text.
        """
        self.source = source
        self._target = target
        self._control_tokens = {} if target is None else shared_control_tokens(source.vocabulary, target)
        self.required_models = required_models
        self.policy = policy
        self._config = healer.config
        self._healer = healer
        self._decoder = TreeDecoder({name: source.models[name] for name in sorted(required_models)}, batch)
        self.predictor = SourcePredictor(source, self._decoder, healer, policy)
        self._texts = [self._begin((), Place.BEGINNING) for _ in range(batch)]

    @property
    def batch(self) -> int:
        """The number of rows."""
        return len(self._texts)

    @property
    def length(self) -> int:
        """How many tokens of the base's each row has been given."""
        return len(self._texts[0].pieces)

    @property
    def interrupted(self) -> bool:
        """Whether a step was interrupted, so that the models have read something else than the texts say."""
        return self._decoder.interrupted

    def set_prompt(self, row: int, prompt: Sequence[Piece], place: Place = Place.INSIDE) -> None:
        """Give a row a prompt of the source's own, such as a chat's; the base's prompt then has to come without text.

        Args:
            row: Which row.
            prompt: What the source reads.
            place: Where the text stands that the base writes behind its own prompt.
        """
        self._texts[row] = self._begin(tuple(prompt), place)

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """Return what a text grows by with tokens of the base's; ids below 0 are padding, which is no text."""
        assert self._target is not None
        data = [self._target.token_bytes[i] if i >= 0 else b"" for i in ids]
        return [self._control_tokens.get(i, b"") if text is None else text for i, text in zip(ids, data, strict=True)]

    def append(self, row: int, pieces: Sequence[Piece]) -> None:
        """Append to a row without a prediction."""
        text = self._texts[row]
        for piece in pieces:
            place = text.places[-1]
            if self._target is not None and isinstance(piece, bytes):
                _append(text, self._target.prefix_space.strip(piece, place), place.after(piece))
            else:
                _append(text, piece, place.after(piece))

    def advance(self, pieces: Sequence[Sequence[Piece]], logits_to_keep: int) -> list[Position]:
        """Append to all rows, and read what predictions after the last tokens need.

        Args:
            pieces: For each row the same number n of the base's tokens, as what the text grows by with each.
            logits_to_keep: After how many of them the source has to predict, 1 to n.

        Returns:
            The positions, rows x logits_to_keep, row by row.
        """
        positions = []
        for row, new in enumerate(pieces):
            self.append(row, new[: len(new) - logits_to_keep])
            for piece in new[len(new) - logits_to_keep :]:
                self.append(row, [piece])
                positions.append(self._position(row))
        if logits_to_keep > 1:  # what precedes other covers is not read yet, and decides which of them are
            self._read(positions, [position.trunk for position in positions])
        known: dict[Step, dict[str, float]] = {}
        positions = self._prune(positions, known)
        self._read(positions, [position.nodes for position in positions])
        positions = self._prune(positions, known)
        self._decoder.commit_prefixes([text.committed_node for text in self._texts])
        return positions

    def crop(self, row: int, tokens: int) -> None:
        """Keep the first so many of the base's tokens of a row; nothing that stays is read by the models again."""
        text = self._texts[row]
        kept = self._texts[row] = self._begin(text.prompt, text.places[0])
        for piece, place in zip(text.pieces[:tokens], text.places[1:], strict=False):
            _append(kept, piece, place)

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, in this order; (rows,) int64, any number of them."""
        self._decoder.reorder(rows)
        texts = [self._texts[i] for i in rows.tolist()]
        self._texts = [
            replace(
                text,
                tokenizer=text.tokenizer.copy(),
                pieces=list(text.pieces),
                places=list(text.places),
                latest=None if text.latest is None else replace(text.latest, row=row),
            )
            for row, text in enumerate(texts)
        ]

    def _begin(self, prompt: tuple[Piece, ...], place: Place) -> _Text:
        text = _Text(IncrementalTokenizer(self.source.vocabulary), prompt, [], [place])
        for piece in prompt:
            text.tokenizer.append(piece)
        return text

    def _prune(self, positions: list[Position], known: dict[Step, dict[str, float]]) -> list[Position]:
        return prune_covers(self.source, self._decoder, positions, known, self._config.cover_threshold)

    def _read(self, positions: Sequence[Position], nodes: Sequence[Sequence[int]]) -> None:
        """Have the models read, so that they predict after some nodes of each position."""
        wanted: list[list[int]] = [[] for _ in self._texts]
        for position, of_position in zip(positions, nodes, strict=True):
            wanted[position.row] += of_position
        self._decoder.read(wanted)

    def _position(self, row: int) -> Position:
        text = self._texts[row]
        if text.latest is None:
            text_end = self._text_end(text.pieces)
            text.latest = Position(row, text_end, self._covers(row, text_end))
        return text.latest

    def _covers(self, row: int, text_end: bytes) -> tuple[CoverNode, ...]:
        """Return the covers of a row's text that are worth a prediction, as nodes of its tree."""
        text, tree = self._texts[row], self._decoder.trees[row]
        candidates = self._candidates(text)
        committed_ids = text.tokenizer.committed_ids
        text.committed_node = tree.add(committed_ids[text.committed :], text.committed_node)
        text.committed = len(committed_ids)
        if self.policy is BoundaryPolicy.SKIP and text.tokenizer.partial_utf8:
            return ()
        covers = []
        for number, candidate in enumerate(candidates):
            if candidate.pending and not self._can_cross(text, candidate.pending, text_end):
                continue
            node = tree.add(candidate.ids, text.committed_node)
            if node == ROOT:  # no token yet, and no bos token: there is nothing after which a model could predict
                continue
            covers.append(CoverNode(node, candidate.pending, can_end=number == 0 and not candidate.pending))
        return _with_steps(tree, text.committed_node, covers)

    def _candidates(self, text: _Text) -> list[CoverCandidate]:
        config, tokenizer = self._config, text.tokenizer
        if self.policy is BoundaryPolicy.AS_IS:
            candidates = tokenizer.cover_candidates()
        else:
            candidates = tokenizer.cover_candidates(config.tokens_taken_back, tuple(config.word_continuations))
        target_waits = self._target is not None and self._target.prefix_space.rule(text.places[-1]) is not Rule.NEVER
        if target_waits and not tokenizer.waits:
            return []  # the base's next token holds a space that the source would not write
        if tokenizer.waits and not tokenizer.partial_utf8 and not target_waits:
            return [CoverCandidate((), b" ")]  # the other way round
        return candidates

    def _can_cross(self, text: _Text, pending: bytes, text_end: bytes) -> bool:
        has_end = text_end != b"" or text.tokenizer.waits
        return self.policy is not BoundaryPolicy.AS_IS and has_end and self._healer.can_cross(pending, text_end)

    def _text_end(self, pieces: Sequence[Piece]) -> bytes:
        """Return the end of a text: its last token, and those before it back to the start of the word or a control."""
        end: list[bytes] = []
        for piece in reversed(pieces):
            if isinstance(piece, int) or len(end) == self._config.max_word_tokens:
                break
            if piece:
                end.append(piece)
                if character_class(piece) != LETTER:
                    break
        return b"".join(reversed(end))


def _append(text: _Text, piece: Piece, place: Place) -> None:
    """Append the part of a piece that is text, behind which more text stands at a place."""
    if piece != b"" or place is not text.places[-1]:
        text.latest = None
    text.pieces.append(piece)
    text.places.append(place)
    text.tokenizer.append(piece)


def _with_steps(tree: TokenTree, committed_node: int, covers: Sequence[CoverNode]) -> tuple[CoverNode, ...]:
    """Return the covers with their steps behind the node that all of them share; of one cover none are needed."""
    if len(covers) < 2:
        return tuple(covers)
    paths = [_path_below(tree, cover.node, committed_node) for cover in covers]
    shared = min(map(len, paths))
    while any(path[:shared] != paths[0][:shared] for path in paths):
        shared -= 1
    return tuple(
        replace(
            cover,
            steps=tuple(
                (tree.parents[node], tree.tokens[node]) for node in path[shared:] if tree.parents[node] != ROOT
            ),
        )
        for cover, path in zip(covers, paths, strict=True)
    )


def _path_below(tree: TokenTree, node: int, committed_node: int) -> list[int]:
    """Return the nodes on the way from a committed node down to one behind it, without the committed one."""
    path = []
    while node != committed_node:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]
