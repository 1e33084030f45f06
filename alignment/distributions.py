"""What a source model says along texts: its most likely next tokens at byte offsets, from a file.

At a position with byte offset b, p[i] is the model's probability that its next token is ids[i], after the
text up to b. Only the largest k are kept, so a row sums to at most 1. `alignment` runs no model: whoever has
one writes such a file, and the builder `expected` reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sealed import Seal, Tensors
from vocabridge.alignment.tokenizers.tokens import Int32, Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_SEAL = Seal(
    what="a file of distributions",
    key="vocabridge.distributions",
    format=2,
    again="write it again from the source model",
)

_SLACK = 1e-3
"""By how much float32 or half-precision probabilities may sum to more than 1."""


@dataclass(frozen=True, eq=False)
class Distributions:
    """A source model's largest next-token probabilities at positions of texts.

    Attributes:
        text: (bytes,) uint8, the UTF-8 of all texts, one after the other.
        text_starts: (texts + 1,) int64, where in `text` each text starts; the last is where all end.
        offsets: (positions,) int64, bytes within `text`, strictly increasing. A position lies inside a text:
            the start of a text belongs to that text, and its end to the next.
        ids: (positions, k) int32, source ids.
        probabilities: (positions, k) float32, descending along k, each row summing to at most 1.
        source: The fingerprint of the source vocabulary.
        model: The source model's name, for people.
    """

    text: np.ndarray[Any, np.dtype[np.uint8]] = field(repr=False)
    text_starts: Int64 = field(repr=False)
    offsets: Int64 = field(repr=False)
    ids: Int32 = field(repr=False)
    probabilities: np.ndarray[Any, np.dtype[np.float32]] = field(repr=False)
    source: str
    model: str

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise VocabridgeError(f"The distributions of {self.model} are not what they must be: {problem}.")

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        offsets: Sequence[np.ndarray[Any, Any]],
        ids: Sequence[np.ndarray[Any, Any]],
        probabilities: Sequence[np.ndarray[Any, Any]],
        *,
        source: Vocabulary,
        model: str,
    ) -> Distributions:
        """Put what was found text by text together.

        Args:
            texts: The texts.
            offsets: For each text, (positions,), bytes within the UTF-8 of that text, strictly increasing
                and before its end.
            ids: For each text, (positions, k); the same k everywhere.
            probabilities: For each text, (positions, k), descending along k.
            source: The source model's vocabulary.
            model: The source model's name.

        Raises:
            VocabridgeError: The lists or arrays do not fit each other, or hold what they must not.
        """
        if not len(texts) == len(offsets) == len(ids) == len(probabilities):
            raise VocabridgeError(
                f"There are {len(texts)} texts, {len(offsets)} arrays of offsets, {len(ids)} of ids and "
                f"{len(probabilities)} of probabilities: give one of each for every text."
            )
        data = [text.encode() for text in texts]
        starts = np.concatenate(([0], np.cumsum([len(d) for d in data], dtype=np.int64))).astype(np.int64)
        for i, (own, found) in enumerate(zip(data, offsets, strict=True)):
            if len(found) and not 0 <= found[0] <= found[-1] < len(own):
                raise VocabridgeError(f"Text {i} has {len(own)} bytes: its offsets must lie inside it.")
        widths = {array.shape[1:] for array in (*ids, *probabilities)}
        if len(widths) != 1:
            raise VocabridgeError(f"Every text's ids and probabilities need one shape (positions, k), not {widths}.")
        distributions = cls(
            text=np.frombuffer(b"".join(data), np.uint8),
            text_starts=starts,
            offsets=np.concatenate([s + o for s, o in zip(starts.tolist(), offsets, strict=False)]).astype(np.int64),
            ids=np.concatenate(ids).astype(np.int32),
            probabilities=np.concatenate(probabilities).astype(np.float32),
            source=source.fingerprint,
            model=model,
        )
        distributions.check(source)
        return distributions

    def texts(self) -> Iterator[tuple[str, slice]]:
        """Yield every text, with the slice of the positions that lie in it."""
        bounds = np.searchsorted(self.offsets, self.text_starts).tolist()
        starts = self.text_starts.tolist()
        for i in range(len(starts) - 1):
            yield self.text[starts[i] : starts[i + 1]].tobytes().decode(), slice(bounds[i], bounds[i + 1])

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 over everything."""
        return _SEAL.hash(self._tensors, self._facts)

    def check(self, source: Vocabulary) -> None:
        """Check that they are over this vocabulary.

        Raises:
            VocabridgeError: They are not; the message says of which model they are.
        """
        if source.fingerprint != self.source:
            raise VocabridgeError(
                f"The distributions of {self.model} are over another vocabulary ({self.source[:12]}) than "
                f"{source.name} ({source.fingerprint[:12]}): write them again with the model of {source.name}."
            )
        if self.ids.max(initial=0) >= source.size:
            raise VocabridgeError(
                f"The distributions of {self.model} hold the id {self.ids.max()}, and {source.name} has only "
                f"{source.size} ids: {_SEAL.again}."
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; it is either complete or not there.

        Raises:
            VocabridgeError: It cannot be written.
        """
        _SEAL.write(path, self._tensors, self._facts)

    @classmethod
    def open(cls, path: str | Path) -> Distributions:
        """Read a file that `save` wrote.

        Raises:
            VocabridgeError: No such file, not such a file, altered or cut off.
        """
        tensors, facts = _SEAL.read(path)
        try:
            return cls(**tensors, source=facts["source"], model=facts["model"])
        except (TypeError, KeyError) as error:
            raise VocabridgeError(f"{path}: not readable as {_SEAL.what} ({error}); {_SEAL.again}.") from error

    @property
    def _tensors(self) -> Tensors:
        return {
            "text": self.text,
            "text_starts": self.text_starts,
            "offsets": self.offsets,
            "ids": self.ids,
            "probabilities": self.probabilities,
        }

    @property
    def _facts(self) -> dict[str, Any]:
        return {"source": self.source, "model": self.model}

    def _problem(self) -> str | None:
        """Say what is wrong with the arrays; None if nothing is."""
        expected = {
            "text": (np.uint8, 1),
            "text_starts": (np.int64, 1),
            "offsets": (np.int64, 1),
            "ids": (np.int32, 2),
            "probabilities": (np.float32, 2),
        }
        for name, (dtype, dimensions) in expected.items():
            array = self._tensors[name]
            if array.dtype != dtype or array.ndim != dimensions:
                return f"{name} is {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of {dimensions} axes"
        starts, offsets, p = self.text_starts, self.offsets, self.probabilities
        if len(starts) == 0 or starts[0] != 0 or starts[-1] != len(self.text) or (np.diff(starts) < 0).any():
            return "text_starts does not go from 0 up to the end of the text"
        try:
            for _ in self.texts():
                pass
        except UnicodeDecodeError as error:
            return f"a text is not UTF-8 ({error})"
        if (np.diff(offsets) <= 0).any() or (len(offsets) and not 0 <= offsets[0] <= offsets[-1] < len(self.text)):
            return "offsets do not increase strictly inside the text"
        if self.ids.shape != p.shape or len(p) != len(offsets):
            return f"{len(offsets)} offsets, ids of shape {self.ids.shape}, probabilities of shape {p.shape}"
        if self.ids.min(initial=0) < 0:
            return f"there is a negative id ({self.ids.min()})"
        if not (p.min(initial=0) >= 0 and p.sum(axis=1).max(initial=0) <= 1 + _SLACK):  # also catches NaN
            return "a row of probabilities is negative, no number, or sums to more than 1"
        if (np.diff(p, axis=1) > 0).any():
            return "a row of probabilities does not descend"
        return None
