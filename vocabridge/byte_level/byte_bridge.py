"""The byte-level bridge: a base model and its value sources, combined over bytes; each model has its own tokenizer.

    product   z = a log p_base + b log p_tuned - c log p_untuned        mixture   p = (a p_base + b p_tuned) / (a + b)

over the 256 bytes and the base's control tokens, each model seen by way of `ByteLM`. Nothing is projected, so
there is no alignment, no method and no policy. It is built, loaded and written with as a `Bridge` is, which differs in
one argument: `vocabridge.load(folder, byte_level=True)`.

A donor's control token speaks for those of the base that mean the same; where these are several, the base splits it.
The base's other control tokens keep what the base gives them. A donor that has no cover of the text has no say any
more; a base that has none is an error. The strengths of several steerings add up, as in the projected bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.byte_level.byte_lm import TOLERANCE, ByteLM
from vocabridge.byte_level.byte_state import ByteState
from vocabridge.byte_level.cover_state import Float64
from vocabridge.models.control_tokens import shared_control_tokens
from vocabridge.models.loading import LoadedModel
from vocabridge.models.prompts import Piece
from vocabridge.models.value_source import ValueSource
from vocabridge.options import Form
from vocabridge.projection.combination import Combination
from vocabridge.projection.strength import Strength, alpha, is_zero

_LOWEST = float(np.log(np.finfo(np.float32).tiny))  # a probability of 0 is taken for this one where it has a weight


@dataclass
class ByteLevelSteering:
    """One value source, and how it is heard.

    Attributes:
        source: The value source.
        combination: Its form and weights. A method of a change of logits has the weight of the untuned donor that of
            the tuned one; else the method does not matter, as nothing is projected.
        strength: alpha, constant or by schedule, counted in the base's tokens. At 0 the source is not run.
    """

    source: ValueSource
    combination: Combination
    strength: Strength = 1.0

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the donors that it needs, by name."""
        untuned = self.combination.tuned_weight if self.combination.of_logit_delta else self.combination.untuned_weight
        both = {"tuned": self.combination.tuned_weight, "untuned": untuned}
        return {name: both[name] for name in both if both[name] != 0 and (name == "tuned" or not self.is_mixture)}

    @property
    def is_mixture(self) -> bool:
        """Whether it mixes probabilities."""
        return self.combination.form is Form.MIXTURE

    @property
    def is_active(self) -> bool:
        """Whether it changes anything."""
        return not is_zero(self.strength) and bool(self.weights)

    def change(self, p_base: Float64, donors: Float64, strength: float) -> Float64:
        """The change of log p_base, (n,), by donors' probabilities (k, n) over the same bytes and symbols."""
        log_p = _log(p_base)
        if self.is_mixture:
            whole = self.combination.base_weight + self.combination.tuned_weight
            share = min(1.0, max(0.0, strength * self.combination.tuned_weight / whole))
            return _log((1 - share) * p_base + share * donors[0]) - log_p
        signed = [weight if name == "tuned" else -weight for name, weight in self.weights.items()]
        return strength * ((self.combination.base_weight - 1) * log_p + np.array(signed) @ _log(donors))


@dataclass(frozen=True)
class NextSteered:
    """What may come next in a text.

    Attributes:
        p: Probabilities of the 256 bytes and of the base's control tokens, (256 + s,).
        p_base: The base's alone.
        lost: The most that a model may have left unread or unjudged, a share of its mass.
    """

    p: Float64
    p_base: Float64
    lost: float


class ByteLevelBridge:
    """A base model steered by value sources, exactly.

    Attributes:
        vocabulary: The base's.
        steerings: What steers it; strengths and combinations may be changed between two texts.
        base: The base model, byte by byte.
        partners: Of each steering, its source's control token for each of the base's that means the same.
    """

    def __init__(
        self,
        base: LoadedModel,
        steerings: Sequence[ByteLevelSteering],
        *,
        tolerance: float = TOLERANCE,
        beam: int | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            base: The base model.
            steerings: What steers it.
            tolerance: As for `ByteLM`: the share of a model's mass that may be left unread or unjudged at a byte.
            beam: As for `ByteLM`.

        Raises:
            VocabridgeError: A tokenizer has no byte-exact view; the message says why.
        """
        self.loaded = base
        self.vocabulary = base.vocabulary
        self.steerings = list(steerings)
        self.base = ByteLM.of(base, tolerance=tolerance, beam=beam)
        self._view = partial(ByteLM.of_donors, tolerance=tolerance, beam=beam)
        self._donors: dict[tuple[int, tuple[str, ...]], ByteLM] = {}
        self.partners = [
            shared_control_tokens(steering.source.vocabulary, self.vocabulary) for steering in self.steerings
        ]
        for number, steering in enumerate(self.steerings):
            if steering.is_active:
                self.donor(number)

    @property
    def steering(self) -> ByteLevelSteering:
        """The steering of a bridge that has one.

        Raises:
            VocabridgeError: It has none or several.
        """
        if len(self.steerings) != 1:
            raise VocabridgeError(f"this bridge has {len(self.steerings)} steerings; name one: bridge.steerings[0]")
        return self.steerings[0]

    @property
    def forwards(self) -> int:
        """How many forwards there have been, of the base and of the donors."""
        return self.base.forwards + sum(donor.forwards for donor in self._donors.values())

    def limit(self, *, tolerance: float, beam: int | None = None) -> None:
        """Sets how exact it is from now on, and so how fast; as for `ByteLM`.

        Raises:
            VocabridgeError: A setting is out of its range.
        """
        self._view = partial(ByteLM.of_donors, tolerance=tolerance, beam=beam)
        for model in (self.base, *self._donors.values()):
            model.limit(tolerance=tolerance, beam=beam)

    def donor(self, number: int) -> ByteLM:
        """The donors that a steering needs, byte by byte; one voice each."""
        source, wanted = self.steerings[number].source, tuple(self.steerings[number].weights)
        if (number, wanted) not in self._donors:
            self._donors[number, wanted] = self._view(source, wanted)
        return self._donors[number, wanted]

    def translated(self, pieces: Sequence[Piece], number: int) -> list[Piece]:
        """What a steering's source reads where the base reads these: bytes, and its own control tokens."""
        partner = self.partners[number]
        return [
            piece if isinstance(piece, bytes) else partner[piece]
            for piece in pieces
            if isinstance(piece, bytes) or piece in partner
        ]

    def text(self, pieces: Sequence[Piece] = (), donors: Sequence[Sequence[Piece]] | None = None) -> ByteLevelText:
        """Begins a text.

        Args:
            pieces: What it begins with: bytes, and ids of the base's control tokens.
            donors: What the source of each steering reads in its place, in a chat; by default the same.
        """
        heard = {}
        for number, steering in enumerate(self.steerings):
            if steering.is_active:
                own = self.translated(pieces, number) if donors is None else donors[number]
                heard[number] = self.donor(number).text(own)
        text = self.base.text(pieces)
        return ByteLevelText(self, text, heard, len(text.tokens))

    def bits(self, prompt: str, response: str) -> float:
        """What the bytes of a response cost after a prompt, in bits.

        Raises:
            VocabridgeError: The base's tokenizer cannot spell them.
        """
        text, bits = self.text(self.vocabulary.pieces(prompt)), 0.0
        for byte in response.encode():
            bits -= float(np.log2(max(text.next().p[byte], np.finfo(np.float64).tiny)))
            text = text.after(bytes([byte]))
        return bits


class ByteLevelText:
    """A text as all models of a byte-level bridge read it; what comes after it is another.

    Attributes:
        bridge: The bridge.
    """

    def __init__(self, bridge: ByteLevelBridge, base: ByteState, donors: dict[int, ByteState], begun: int) -> None:
        """A text that began with so many of the base's tokens; the donors are by the number of their steering."""
        self.bridge = bridge
        self._base = base
        self._donors = donors
        self._begun = begun

    @property
    def tokens(self) -> int:
        """How many of the base's tokens it has more than when it began, those of its last word as they stand."""
        return max(0, len(self._base.tokens) - self._begun)

    @property
    def settled(self) -> int:
        """The same without those that a continuation may still change."""
        return max(0, len(self._base.settled) - self._begun)

    def after(self, piece: Piece) -> ByteLevelText:
        """The text that goes on with some bytes, or a control token of the base's."""
        donors = {}
        for number, donor in self._donors.items():
            donors[number] = donor.after(*self.bridge.translated([piece], number))
        return ByteLevelText(self.bridge, self._base.after(piece), donors, self._begun)

    def cuts(self, size: int) -> Float64:
        """How likely it is that one of the base's tokens ends here which has the last bytes; as for `ByteState`.

        Returns:
            By the byte or symbol that comes next, (256 + s,).
        """
        return self._base.cuts(size)[0]

    def cut(self, size: int) -> ByteLevelText:
        """The text of which is known that one of the base's tokens ends here which has the last bytes, so many.

        A donor that has the base's tokenizer knows it, too; to others it says nothing.
        """
        fingerprint, steerings = self.bridge.vocabulary.fingerprint, self.bridge.steerings
        donors = {
            number: donor.cut(size) if steerings[number].source.vocabulary.fingerprint == fingerprint else donor
            for number, donor in self._donors.items()
        }
        return ByteLevelText(self.bridge, self._base.cut(size), donors, self._begun)

    def next(self) -> NextSteered:
        """What may come next.

        Raises:
            VocabridgeError: The base's tokenizer cannot spell the text.
        """
        found = self._base.next()
        p_base, lost = found.p[0], found.lost
        if not p_base.any():
            raise VocabridgeError(
                f"the tokenizer of {self.bridge.vocabulary.name} has no tokens for this text, or never makes them; "
                "give other text, or bridge it by projection, not byte by byte"
            )
        change = np.zeros_like(p_base)
        for number, donor in self._donors.items():
            steering, said = self.bridge.steerings[number], donor.next()
            lost = max(lost, said.lost)
            if said.p.any(1).all():
                strength = float(alpha(steering.strength, torch.tensor([self.tokens])))
                change += steering.change(p_base, self._shared(donor, number, p_base, said.p), strength)
        if not change.any():
            return NextSteered(p_base, p_base, lost)
        z = np.where(p_base > 0, _log(p_base) + change, -np.inf)
        p = np.exp(z - z.max())
        return NextSteered(p / p.sum(), p_base, lost)

    def _shared(self, donor: ByteState, number: int, p_base: Float64, said: Float64) -> Float64:
        """A steering's distributions (k, 256 + its symbols) over the bytes and the base's symbols, (k, 256 + s)."""
        ours, theirs = self.bridge.base.symbols.tolist(), donor.model.symbols.tolist()
        shared, speaks = np.zeros((len(said), len(p_base))), np.arange(len(p_base)) < 256
        shared[:, :256] = said[:, :256]
        partner = self.bridge.partners[number]
        for source in set(partner.values()):
            places = [256 + i for i, symbol in enumerate(ours) if partner.get(symbol) == source]
            own = p_base[places]
            split = own / own.sum() if own.sum() > 0 else np.full(len(places), 1 / max(1, len(places)))
            shared[:, places] = said[:, [256 + theirs.index(source)]] * split
            speaks[places] = True
        total = shared.sum(1, keepdims=True)
        # What is spoken for shares what the base gives it; the rest keeps what it has.
        return np.where(speaks, shared / np.where(total > 0, total, 1) * p_base[speaks].sum(), p_base)


def _log(p: Float64) -> Float64:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(p), _LOWEST)
