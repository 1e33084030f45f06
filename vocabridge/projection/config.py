"""The settings of token healing and lookahead, in one place.

The source's and the target's tokenizer cut a text at different bytes. The settings below control how a prediction of
the source is obtained where they do. Most of them trade forwards of the source for accuracy. For `tokens_taken_back`,
`word_continuations`, `cover_threshold`, `unlikely_boundary` and `min_expected_bits`, the figures are in
notes/2026-11-26-boundaries-and-projection.md; the others were not tuned. A `Steering` holds the settings, a saved
bridge records them, and the description of an evaluation contains them.
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
        max_word_tokens: The largest number of the target's last tokens that count as one word.
        cover_threshold: A cover is dropped when it is less probable than this fraction of the text as it stands.
        max_crossing_mass: Policy `skip` makes no prediction where a larger share of the source's probability is on
            tokens that cross the text's end.
        unlikely_boundary: The boundary weight of a continuation before which the target would not end a token.
        unlikely_word_boundary: The same for a letter after a letter, where a few trials prove little.
        word_end_probability: The probability that a word ends with a token.
        judged_tokens: How many of the most likely continuations get a boundary weight of their own in the first round.
            All others get the weight of their character class.
        judging_rounds: The largest number of rounds. A round judges twice as many continuations as the one before it,
            and is needed when the judged ones turn out to have next to no weight.
        judged_mass: The share of all mass above which a continuation is judged by itself.
        certain_boundary: A boundary weight above this one counts as certain.
        uncertain_mass: The share of all mass above which lookahead decides a token of uncertain boundary.
        uncertain_followers: How many of the most likely followers of such a token are judged together with it.
        min_expected_bits: Lookahead reads a source token only if it is expected to save more bits than this.
        lookahead_candidates: How many of the most likely source tokens are considered for lookahead at a position.
        lookahead_tokens: The largest number of source tokens that lookahead reads at a position.
        lookahead_followers: How many of the most likely followers of such a token are distinguished.
        lookahead_extensions: How many target tokens that begin with the text of a source token and its follower are
            candidates: the most frequent ones.
        lookahead_prefixes: How many target tokens that are a prefix of a source token are considered: the longest ones.
        unseen_row_weight: R[y, w] of a target token that begins with w but never occurred with it in the corpus.
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
        """Return the settings as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> BoundaryConfig:
        """Read the JSON object of `as_dict`; fields that it lacks get their defaults.

        Raises:
            VocabridgeError: A name is unknown or a value has the wrong type.
        """
        types = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= set(types):
            raise VocabridgeError(
                f"{values!r} is not a boundary config; give an object with some of {', '.join(types)}"
            )
        for name, value in values.items():
            allowed: tuple[type, ...] = (int, float) if types[name] is float else (types[name],)
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise VocabridgeError(f"{name} cannot be {value!r}; give a value of type {types[name].__name__}")
        return cls(**values)
