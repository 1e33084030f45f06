"""A value source's view of a batch of texts that a base model with another vocabulary writes.

    the base's tokens --bytes--> IncrementalTokenizer --covers--> TreeDecoder --> positions to predict at

At every position, the source's tokens are those of the text before it; they never depend on the text after it. Where
the text may end inside a source token, the policy decides whether the source predicts after the text as it stands, not
at all, or after all covers (`token_healing`).
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
        tokenizer: The source's tokenizer, which has read this text.
        prompt: The source's own prompt, which replaces the base's; empty without one.
        pieces: For each of the base's tokens, the piece that it appends to the text.
        places: The place of the next piece of text: one before all pieces, and one after each.
        committed_node: The node of the last committed id.
        committed: How many ids are committed.
        latest: The position after the last piece that was text; None if it has not been computed.
    """

    tokenizer: IncrementalTokenizer
    prompt: tuple[Piece, ...]
    pieces: list[Piece]
    places: list[Place]
    committed_node: int = ROOT
    committed: int = 0
    latest: Position | None = None


class SourceStream:
    """The texts of a batch in one value source's tokens, with the caches of its models.

    Attributes:
        source: The value source.
        required_models: Names of the source's models that run.
        policy: The boundary policy.
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
            required_models: Names of the source's models whose logits are needed; not empty.
            healer: The token healer for the source's and the base's vocabulary.
            policy: The boundary policy.
            batch: The number of rows.
            target: The base's vocabulary. `pieces` needs it, and so does a base whose tokens may begin with a space
                that is not part of the text (`prefix_space`).
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
        """The number of the base's tokens that each row has been given."""
        return len(self._texts[0].pieces)

    @property
    def interrupted(self) -> bool:
        """Whether a step was interrupted, so that the models' caches do not match the texts."""
        return self._decoder.interrupted

    def set_prompt(self, row: int, prompt: Sequence[Piece], place: Place = Place.INSIDE) -> None:
        """Give a row the source's own prompt, such as a chat prompt.

        The caller then passes the base's prompt to `advance` as pieces without text.

        Args:
            row: The index of the row.
            prompt: The pieces of the source's prompt.
            place: The place of the text that the base writes after its own prompt.
        """
        self._texts[row] = self._begin(tuple(prompt), place)

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """Return the piece that each of the base's tokens appends to a text; ids below 0 are padding, without text."""
        assert self._target is not None
        data = [self._target.token_bytes[i] if i >= 0 else b"" for i in ids]
        return [self._control_tokens.get(i, b"") if text is None else text for i, text in zip(ids, data, strict=True)]

    def append(self, row: int, pieces: Sequence[Piece]) -> None:
        """Append pieces to a row without a prediction."""
        text = self._texts[row]
        for piece in pieces:
            place = text.places[-1]
            if self._target is not None and isinstance(piece, bytes):
                _append(text, self._target.prefix_space.strip(piece, place), place.after(piece))
            else:
                _append(text, piece, place.after(piece))

    def advance(self, pieces: Sequence[Sequence[Piece]], logits_to_keep: int) -> list[Position]:
        """Append to all rows, and run the models on the nodes that the predictions after the last tokens need.

        Args:
            pieces: For each row, the pieces of the same number n of the base's tokens.
            logits_to_keep: After how many of the last tokens the source has to predict, 1 to n.

        Returns:
            The positions, rows * logits_to_keep, row by row.
        """
        positions = []
        for row, new in enumerate(pieces):
            self.append(row, new[: len(new) - logits_to_keep])
            for piece in new[len(new) - logits_to_keep :]:
                self.append(row, [piece])
                positions.append(self._position(row))
        if logits_to_keep > 1:  # the parents of the covers' steps have not been read yet, and pruning needs them
            self._read(positions, [position.trunk for position in positions])
        known: dict[Step, dict[str, float]] = {}
        positions = self._prune(positions, known)
        self._read(positions, [position.nodes for position in positions])
        positions = self._prune(positions, known)
        self._decoder.commit_prefixes([text.committed_node for text in self._texts])
        return positions

    def crop(self, row: int, tokens: int) -> None:
        """Keep the first `tokens` of the base's tokens of a row. The models do not read the kept text again.

        The kept text is found again in the row's token tree, whose slots hold the KV cache (`TreeDecoder`).
        """
        text = self._texts[row]
        kept = self._texts[row] = self._begin(text.prompt, text.places[0])
        for piece, place in zip(text.pieces[:tokens], text.places[1:], strict=False):
            _append(kept, piece, place)

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, int64 (rows,), in this order; an index may occur several times."""
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
        """Return the covers of a row's text after which the source may predict, as nodes of the row's tree."""
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
            if node == ROOT:  # neither a token nor a bos token precedes, so no model can predict
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
        if target_waits and not tokenizer.awaits_prefix_space:
            return []  # the base's next token begins with a space that is not text, and the source's does not
        if tokenizer.awaits_prefix_space and not tokenizer.partial_utf8 and not target_waits:
            return [
                CoverCandidate((), b" ")
            ]  # the source's next token begins with such a space, and the base's does not
        return candidates

    def _can_cross(self, text: _Text, pending: bytes, text_end: bytes) -> bool:
        has_end = text_end != b"" or text.tokenizer.awaits_prefix_space
        return self.policy is not BoundaryPolicy.AS_IS and has_end and self._healer.can_cross(pending, text_end)

    def _text_end(self, pieces: Sequence[Piece]) -> bytes:
        """Return the last token of a text, with those before it of the same word, up to a control token."""
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
    """Append a piece to a text; `place` is the place of the text after it."""
    if piece != b"" or place is not text.places[-1]:
        text.latest = None
    text.pieces.append(piece)
    text.places.append(place)
    text.tokenizer.append(piece)


def _with_steps(tree: TokenTree, committed_node: int, covers: Sequence[CoverNode]) -> tuple[CoverNode, ...]:
    """Return the covers with their steps after the last node that all of them share; a single cover gets no steps."""
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
    """Return the nodes on the path from a committed node to one below it, without the committed node."""
    path = []
    while node != committed_node:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]
