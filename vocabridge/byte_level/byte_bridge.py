"""The byte-level bridge: a base model and value sources, each with its own tokenizer, combined over the next byte.

    product   z = a log p_base + b log p_tuned - c log p_untuned        mixture   p = (a p_base + b p_tuned) / (a + b)

over the 256 bytes and the base's control tokens. `ByteLM` gives each model's distribution. Nothing is projected, so
there is no alignment, no projection method and no policy. A `ByteLevelBridge` is built, loaded and used as a `Bridge`
is, with one more argument: `vocabridge.load(folder, byte_level=True)`.

A source's control token counts for those of the base with the same role. Where these are several, they share its
probability in the proportion that the base gives them. The base's other control tokens keep the base's probability. A
source that has no cover of the text is inactive from there on; a base that has none is an error. The changes of
several steerings add up, as in a projected bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.alignment.arrays import Float64
from vocabridge.byte_level.byte_lm import TOLERANCE, ByteLM
from vocabridge.byte_level.byte_state import ByteState
from vocabridge.models.control_tokens import shared_control_tokens
from vocabridge.models.loading import LoadedModel
from vocabridge.models.prompts import Piece
from vocabridge.models.value_source import ValueSource
from vocabridge.options import Form
from vocabridge.projection.combination import Combination
from vocabridge.projection.strength import Strength, alpha, is_zero

_MIN_LOG_P = float(np.log(np.finfo(np.float32).tiny))  # stands for log 0, so that weighted sums stay finite


@dataclass
class ByteLevelSteering:
    """One value source, and how it changes the base's distribution.

    Attributes:
        source: The value source.
        combination: Its form and weights. With a projection method of a change of logits, the untuned model has the
            weight of the tuned one. The method does not matter otherwise, because nothing is projected.
        strength: alpha, constant or by a schedule over the base's tokens. At 0 the source is not run.
    """

    source: ValueSource
    combination: Combination
    strength: Strength = 1.0

    @property
    def weights(self) -> dict[str, float]:
        """The weights, not 0, of the source's distributions "tuned" and "untuned"."""
        tuned, untuned = self.combination.tuned_weight, self.combination.untuned_weight
        weights = {"tuned": tuned}
        if not self.is_mixture:
            weights["untuned"] = tuned if self.combination.of_logit_delta else untuned
        return {name: weight for name, weight in weights.items() if weight != 0}

    @property
    def is_mixture(self) -> bool:
        """Whether it mixes probabilities."""
        return self.combination.form is Form.MIXTURE

    @property
    def is_active(self) -> bool:
        """Whether it changes anything."""
        return not is_zero(self.strength) and bool(self.weights)

    def change(self, p_base: Float64, p_source: Float64, strength: float) -> Float64:
        """Return the change of log p_base, (n,).

        Args:
            p_base: The base's probabilities of n bytes and control tokens, (n,).
            p_source: The source's probabilities of the same, a row for each of `weights`, (k, n).
            strength: alpha at this byte.
        """
        log_p = _log(p_base)
        if self.is_mixture:
            share = self.combination.at(strength).tuned_weight
            return _log((1 - share) * p_base + share * p_source[0]) - log_p
        signed = [weight if name == "tuned" else -weight for name, weight in self.weights.items()]
        return strength * ((self.combination.base_weight - 1) * log_p + np.array(signed) @ _log(p_source))


@dataclass(frozen=True)
class SteeredNextByte:
    """The steered distribution over the next byte of a text.

    Attributes:
        p: The probabilities of the 256 bytes and of the base's s control tokens, (256 + s,).
        p_base: The same of the base alone.
        lost: The greatest share of a model's mass that may be unevaluated or unchecked.
    """

    p: Float64
    p_base: Float64
    lost: float


class ByteLevelBridge:
    """A base model steered by value sources, over bytes.

    Attributes:
        loaded: The base model.
        vocabulary: The base's vocabulary.
        steerings: The steerings; strengths and combinations may be changed between two texts.
        base: The base model as a `ByteLM`.
        control_tokens: For each steering, the source's control token for each of the base's with the same role.
    """

    def __init__(
        self, base: LoadedModel, steerings: Sequence[ByteLevelSteering], *, tolerance: float = TOLERANCE
    ) -> None:
        """Combine a base model and steerings.

        Args:
            base: The base model.
            steerings: The steerings.
            tolerance: The share of each model's mass that may be left out at a byte; see `ByteLM`.

        Raises:
            VocabridgeError: A tokenizer has no byte-exact view, or the tolerance is out of its range.
        """
        self.loaded = base
        self.vocabulary = base.vocabulary
        self.steerings = list(steerings)
        self.base = ByteLM.of(base, tolerance=tolerance)
        self._sources: dict[tuple[int, tuple[str, ...]], ByteLM] = {}
        self.control_tokens = [
            shared_control_tokens(steering.source.vocabulary, self.vocabulary) for steering in self.steerings
        ]
        for index, steering in enumerate(self.steerings):
            if steering.is_active:
                self.source(index)

    @property
    def steering(self) -> ByteLevelSteering:
        """The steering of a bridge that has one.

        Raises:
            VocabridgeError: The bridge has no steering, or several.
        """
        if len(self.steerings) != 1:
            raise VocabridgeError(f"this bridge has {len(self.steerings)} steerings; name one: bridge.steerings[0]")
        return self.steerings[0]

    @property
    def forwards(self) -> int:
        """The number of forwards so far, of the base and of the sources."""
        return self.base.forwards + sum(source.forwards for source in self._sources.values())

    def set_tolerance(self, tolerance: float) -> None:
        """Set the share of each model's mass that may be left out at a byte; a larger one is faster.

        Raises:
            VocabridgeError: The tolerance is not from 0 to below 1.
        """
        for model in (self.base, *self._sources.values()):
            model.set_tolerance(tolerance)

    def source(self, index: int) -> ByteLM:
        """Return the source of a steering, with one distribution for each of the steering's weights."""
        steering = self.steerings[index]
        names = tuple(steering.weights)
        if (index, names) not in self._sources:
            self._sources[index, names] = ByteLM.of_value_source(steering.source, names, tolerance=self.base.tolerance)
        return self._sources[index, names]

    def source_pieces(self, pieces: Sequence[Piece], index: int) -> list[Piece]:
        """Return what a steering's source reads where the base reads these pieces.

        Bytes stay, and a control token becomes the source's with the same role, or nothing.
        """
        control_tokens = self.control_tokens[index]
        return [
            piece if isinstance(piece, bytes) else control_tokens[piece]
            for piece in pieces
            if isinstance(piece, bytes) or piece in control_tokens
        ]

    def text(
        self, pieces: Sequence[Piece] = (), source_pieces: Sequence[Sequence[Piece]] | None = None
    ) -> ByteLevelText:
        """Begin a text.

        Args:
            pieces: The beginning of the text: bytes, and ids of the base's control tokens.
            source_pieces: For each steering, what its source reads instead, such as a chat in its own template. By
                default the source reads the same text.
        """
        sources = {}
        for index, steering in enumerate(self.steerings):
            if steering.is_active:
                read = self.source_pieces(pieces, index) if source_pieces is None else source_pieces[index]
                sources[index] = self.source(index).text(read)
        base = self.base.text(pieces)
        return ByteLevelText(self, base, sources, len(base.ids))

    def bits(self, prompt: str, response: str) -> float:
        """Return -log2 of the probability of a response's bytes after a prompt.

        Raises:
            VocabridgeError: The base's tokenizer cannot spell them.
        """
        text, bits = self.text(self.vocabulary.pieces(prompt)), 0.0
        for byte in response.encode():
            bits -= float(np.log2(max(text.next().p[byte], np.finfo(np.float64).tiny)))
            text = text.after(bytes([byte]))
        return bits


class ByteLevelText:
    """A text as all models of a byte-level bridge read it. It is immutable: `after` returns another, longer text.

    Attributes:
        bridge: The bridge.
    """

    def __init__(
        self, bridge: ByteLevelBridge, base: ByteState, sources: dict[int, ByteState], prompt_tokens: int
    ) -> None:
        """Make a text.

        Args:
            bridge: The bridge.
            base: The text as the base reads it.
            sources: The text as each active source reads it, by the index of its steering.
            prompt_tokens: The number of the base's tokens with which the text began.
        """
        self.bridge = bridge
        self._base = base
        self._sources = sources
        self._prompt_tokens = prompt_tokens

    @property
    def new_tokens(self) -> int:
        """The number of the base's tokens after the prompt, if the text ended here."""
        return max(0, len(self._base.ids) - self._prompt_tokens)

    @property
    def committed_new_tokens(self) -> int:
        """The number of the base's tokens after the prompt that no continuation changes."""
        return max(0, len(self._base.committed_ids) - self._prompt_tokens)

    def after(self, piece: Piece) -> ByteLevelText:
        """Return the text that continues with some bytes, or with a control token of the base's."""
        sources = {
            index: source.after(*self.bridge.source_pieces([piece], index)) for index, source in self._sources.items()
        }
        return ByteLevelText(self.bridge, self._base.after(piece), sources, self._prompt_tokens)

    def boundary_share(self, size: int) -> Float64:
        """Return how likely it is that one of the base's tokens ends where the text ends, with these last bytes.

        Args:
            size: How many of the last bytes of the text the token has at least.

        Returns:
            For each byte or control token that may come next, a share from 0 to 1, (256 + s,).
        """
        return self._base.boundary_share(size)[0]

    def at_boundary(self, size: int) -> ByteLevelText:
        """Return this text, given that one of the base's tokens ends here and has at least the last `size` bytes.

        This also holds for a source with the base's tokenizer. It is no information about the tokens of another one.
        """
        fingerprint, steerings = self.bridge.vocabulary.fingerprint, self.bridge.steerings
        sources = {
            index: source.at_boundary(size) if steerings[index].source.vocabulary.fingerprint == fingerprint else source
            for index, source in self._sources.items()
        }
        return ByteLevelText(self.bridge, self._base.at_boundary(size), sources, self._prompt_tokens)

    def next(self) -> SteeredNextByte:
        """Return the steered distribution over the next byte.

        Raises:
            VocabridgeError: The base's tokenizer cannot spell the text.
        """
        base = self._base.next()
        p_base, lost = base.p[0], base.lost
        if not p_base.any():
            raise VocabridgeError(
                f"the tokenizer of {self.bridge.vocabulary.name} has no tokens for this text, or never makes them; "
                "give other text, or use a projected bridge"
            )
        change = np.zeros_like(p_base)
        for index, text in self._sources.items():
            steering, source = self.bridge.steerings[index], text.next()
            lost = max(lost, source.lost)
            if source.p.any(1).all():
                strength = float(alpha(steering.strength, torch.tensor([self.new_tokens])))
                change += steering.change(p_base, self._on_base_controls(text, index, p_base, source.p), strength)
        if not change.any():
            return SteeredNextByte(p_base, p_base, lost)
        z = np.where(p_base > 0, _log(p_base) + change, -np.inf)
        p = np.exp(z - z.max())
        return SteeredNextByte(p / p.sum(), p_base, lost)

    def _on_base_controls(self, text: ByteState, index: int, p_base: Float64, p_source: Float64) -> Float64:
        """Return a source's distributions over the bytes and the base's control tokens, (k, 256 + s).

        Args:
            text: The text as the source reads it.
            index: The index of its steering.
            p_base: The base's distribution, (256 + s,).
            p_source: The source's distributions over the bytes and its own s' control tokens, (k, 256 + s').
        """
        base_ids, source_ids = self.bridge.base.control_ids.tolist(), text.model.control_ids.tolist()
        p, covered = np.zeros((len(p_source), len(p_base))), np.arange(len(p_base)) < 256
        p[:, :256] = p_source[:, :256]
        control_tokens = self.bridge.control_tokens[index]
        for source_id in set(control_tokens.values()):
            columns = [256 + i for i, base_id in enumerate(base_ids) if control_tokens.get(base_id) == source_id]
            total = p_base[columns].sum()
            split = p_base[columns] / total if total > 0 else np.full(len(columns), 1 / max(1, len(columns)))
            p[:, columns] = p_source[:, [256 + source_ids.index(source_id)]] * split
            covered[columns] = True
        total = p.sum(1, keepdims=True)
        # Bytes and shared control tokens share the mass that the base gives them together; the rest is the base's.
        return np.where(covered, p / np.where(total > 0, total, 1) * p_base[covered].sum(), p_base)


def _log(p: Float64) -> Float64:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(p), _MIN_LOG_P)
