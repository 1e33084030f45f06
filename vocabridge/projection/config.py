"""The settings of token healing and lookahead, in one place.

Two tokenizers cut a text at different bytes. How the source's predictions are read where they do depends on the numbers
below. They were chosen on real text (docs/concepts/token-boundaries.md) and seldom need a change: a change trades
forwards of the source for accuracy. A `Steering` holds them, a saved bridge records them, and the fingerprint of an
evaluation covers them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from vocabridge.alignment import VocabridgeError


@dataclass(frozen=True)
class BoundaryConfig:
    """Settings of token healing and lookahead.

    Attributes:
        tokens_taken_back: How many of the source's last tokens an alternative cover may take back.
        word_continuations: Letters with which a word may continue, each tried as an alternative cover. Rarer letters
            add next to nothing.
        max_word_tokens: The most tokens of the target that count as one word.
        cover_threshold: A cover is dropped when it is less probable than this fraction of the text as it stands.
        max_crossing_mass: Policy `skip` makes no prediction where more of the source's mass than this would run across
            the boundary.
        unlikely_boundary: The weight of a continuation before which the target would not end a token.
        unlikely_word_boundary: The same for a letter behind a letter, where the trials are no proof.
        word_end_probability: The probability that a word ends with a token.
        judged_tokens: How many of the most likely continuations are judged one by one; others by character class.
        judging_rounds: How often that is repeated, each time for twice as many, when those turn out to weigh nothing.
        judged_mass: The share of all mass below which a continuation is judged by its character class.
        certain_boundary: A boundary weight above this one counts as certain.
        uncertain_mass: The share of all mass from which lookahead decides an uncertain token.
        uncertain_followers: How many tokens behind an uncertain token are judged together with it.
        min_expected_bits: Bits that lookahead behind a source token has to be expected to save.
        lookahead_candidates: How many of the most likely source tokens are considered for lookahead at a position.
        lookahead_tokens: Behind how many source tokens lookahead reads at a position, at most.
        lookahead_followers: How many tokens behind a source token are told apart: the most likely ones.
        lookahead_extensions: How many target tokens that begin with the source's two are told apart: the most frequent.
        lookahead_prefixes: How many target tokens that are a prefix of a source token are considered: the longest.
        unseen_row_weight: R[y, w] of a target token that begins with w but never stood with it in the corpus.
        unseen_column_weight: C[y, w] of such a token.
    """

    tokens_taken_back: int = 2
    word_continuations: str = "etaoinsrhldf"
    max_word_tokens: int = 6
    cover_threshold: float = 0.01
    max_crossing_mass: float = 0.5
    unlikely_boundary: float = 1e-6
    unlikely_word_boundary: float = 1e-3
    word_end_probability: float = 0.95
    judged_tokens: int = 16
    judging_rounds: int = 5
    judged_mass: float = 1e-3
    certain_boundary: float = 0.99
    uncertain_mass: float = 0.1
    uncertain_followers: int = 16
    min_expected_bits: float = 0.3
    lookahead_candidates: int = 16
    lookahead_tokens: int = 4
    lookahead_followers: int = 256
    lookahead_extensions: int = 256
    lookahead_prefixes: int = 4
    unseen_row_weight: float = 1e-2
    unseen_column_weight: float = 1e-4

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VocabridgeError: A number is negative or not finite, or `word_continuations` is not made of letters.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                if not value.isalpha():
                    raise VocabridgeError(f"{field.name} cannot be {value!r}; give letters")
            elif not 0 <= value < math.inf or (isinstance(field.default, int) and value != int(value)):
                raise VocabridgeError(f"{field.name} cannot be {value}; give a finite number from 0 up")

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> BoundaryConfig:
        """Read the JSON form; fields that it does not name have their default.

        Raises:
            VocabridgeError: A name is unknown or a value has the wrong type.
        """
        kinds = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= set(kinds):
            raise VocabridgeError(
                f"{values!r} is not a boundary config; give an object with some of {', '.join(kinds)}"
            )
        for name, value in values.items():
            allowed: tuple[type, ...] = (int, float) if kinds[name] is float else (kinds[name],)
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise VocabridgeError(f"{name} cannot be {value!r}; give a value of type {kinds[name].__name__}")
        return cls(**values)
