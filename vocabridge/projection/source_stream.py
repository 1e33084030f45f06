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

from vocabridge.decoding.incremental_tokenizer import CoverCandidate, IncrementalTokenizer, Piece
from vocabridge.decoding.token_tree import ROOT, TokenTree
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.boundary import LETTER, character_class
from vocabridge.projection.cover_pruning import Step, prune_covers
from vocabridge.projection.source_predictions import CoverNode, Position, SourcePredictor
from vocabridge.projection.token_healing import TokenHealer


@dataclass
class _Text:
    """One text of the batch.

    Attributes:
        tokenizer: The source's, along this text.
        prompt: What replaces the base's prompt where each model has a prompt of its own.
        pieces: What the text has grown by with each of the base's tokens.
        committed_node: The node of the last committed id.
        committed: How many ids are committed.
        latest: The position after the last token that was text; None before anyone has asked.
    """

    tokenizer: IncrementalTokenizer
    prompt: tuple[Piece, ...]
    pieces: list[Piece]
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
    ) -> None:
        """Start with empty texts.

        Args:
            source: The value source.
            required_models: Those of its models whose logits are needed; not empty.
            healer: From its vocabulary to the base's.
            policy: How predictions are read where tokens do not end together.
            batch: Number of rows.
        """
        self.source = source
        self.required_models = required_models
        self.policy = policy
        self._config = healer.config
        self._healer = healer
        self._decoder = TreeDecoder({name: source.models[name] for name in sorted(required_models)}, batch)
        self.predictor = SourcePredictor(source, self._decoder, healer, policy)
        self._texts = [self._begin(()) for _ in range(batch)]

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

    def set_prompt(self, row: int, prompt: Sequence[Piece]) -> None:
        """Give a row a prompt of the source's own, such as a chat's; the base's prompt then has to come without text."""
        self._texts[row] = self._begin(tuple(prompt))

    def append(self, row: int, pieces: Sequence[Piece]) -> None:
        """Append to a row without a prediction."""
        text = self._texts[row]
        text.pieces += pieces
        if any(piece != b"" for piece in pieces):
            text.latest = None
        for piece in pieces:
            text.tokenizer.append(piece)

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
        self._texts[row] = self._begin(text.prompt)
        self.append(row, text.pieces[:tokens])

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, in this order; (rows,) int64, any number of them."""
        self._decoder.reorder(rows)
        texts = [self._texts[i] for i in rows.tolist()]
        self._texts = [
            replace(
                text,
                tokenizer=text.tokenizer.copy(),
                pieces=list(text.pieces),
                latest=None if text.latest is None else replace(text.latest, row=row),
            )
            for row, text in enumerate(texts)
        ]

    def _begin(self, prompt: tuple[Piece, ...]) -> _Text:
        text = _Text(IncrementalTokenizer(self.source.vocabulary), prompt, [])
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
        candidates = self._candidates(text.tokenizer)
        committed_ids = text.tokenizer.committed_ids
        text.committed_node = tree.add(committed_ids[text.committed :], text.committed_node)
        text.committed = len(committed_ids)
        if self.policy is BoundaryPolicy.SKIP and text.tokenizer.partial_utf8:
            return ()
        covers = []
        for number, candidate in enumerate(candidates):
            if candidate.pending and not self._can_cross(candidate.pending, text_end):
                continue
            node = tree.add(candidate.ids, text.committed_node)
            if node == ROOT:  # no token yet, and no bos token: there is nothing after which a model could predict
                continue
            covers.append(CoverNode(node, candidate.pending, can_end=number == 0 and not candidate.pending))
        return _with_steps(tree, text.committed_node, covers)

    def _candidates(self, tokenizer: IncrementalTokenizer) -> list[CoverCandidate]:
        if self.policy is BoundaryPolicy.AS_IS:
            return tokenizer.cover_candidates()
        return tokenizer.cover_candidates(self._config.tokens_taken_back, tuple(self._config.word_continuations))

    def _can_cross(self, pending: bytes, text_end: bytes) -> bool:
        return self.policy is not BoundaryPolicy.AS_IS and text_end != b"" and self._healer.can_cross(pending, text_end)

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
