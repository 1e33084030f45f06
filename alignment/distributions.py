"""A source model's most likely next tokens at byte offsets of texts, as a file.

At a position with byte offset b, p[i] is the model's probability that its next token is ids[i], given the text up to
b. Only the k largest probabilities are kept, so a row sums to at most 1. `vocabridge predict` writes such a file, and
the builder `expected` reads it, because this package runs no model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vocabridge.alignment.arrays import Int32, Int64
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sealed import Seal, Tensors
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_SEAL = Seal(
    what="a file of distributions",
    key="vocabridge.distributions",
    format=2,
    remedy="write it again from the source model",
)

_SLACK = 1e-3
"""How far rounding (float32 or half precision) may take a sum of probabilities above 1."""


@dataclass(frozen=True, eq=False)
class Distributions:
    """A source model's largest next-token probabilities at positions of texts.

    Attributes:
        text: (bytes,) uint8, the UTF-8 of all texts, concatenated.
        text_starts: (texts + 1,) int64, the byte in `text` at which each text starts, then the number of bytes.
        offsets: (positions,) int64, bytes within `text`, strictly increasing. A position at which one text ends and
            the next starts belongs to the next.
        ids: (positions, k) int32, source ids.
        probabilities: (positions, k) float32, descending along k, each row summing to at most 1.
        source: The fingerprint of the source vocabulary.
        model: The source model's name, for messages.

    Raises:
        VocabridgeError: The arrays have other types or shapes, or violate one of these conditions.
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
            raise VocabridgeError(f"the distributions of {self.model} are invalid ({problem}); {_SEAL.remedy}")

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
        """Concatenate the distributions of several texts.

        Args:
            texts: The texts.
            offsets: For each text, (positions,), bytes within the UTF-8 of that text, strictly increasing
                and before its end.
            ids: For each text, (positions, k); the same k everywhere.
            probabilities: For each text, (positions, k), descending along k.
            source: The source model's vocabulary.
            model: The source model's name.

        Raises:
            VocabridgeError: The lists differ in length, the arrays differ in shape, or a value is out of range.
        """
        if not len(texts) == len(offsets) == len(ids) == len(probabilities):
            raise VocabridgeError(
                f"there are {len(texts)} texts, {len(offsets)} arrays of offsets, {len(ids)} of ids and "
                f"{len(probabilities)} of probabilities; give one of each for every text"
            )
        data = [text.encode() for text in texts]
        starts = np.concatenate(([0], np.cumsum([len(d) for d in data], dtype=np.int64))).astype(np.int64)
        for i, (text_bytes, text_offsets) in enumerate(zip(data, offsets, strict=True)):
            if len(text_offsets) and not 0 <= text_offsets[0] <= text_offsets[-1] < len(text_bytes):
                raise VocabridgeError(
                    f"text {i} has {len(text_bytes)} bytes, and an offset lies outside of it; give offsets from 0 to "
                    "the number of bytes less 1"
                )
        widths = {array.shape[1:] for array in (*ids, *probabilities)}
        if len(widths) != 1:
            raise VocabridgeError(
                f"the ids and probabilities of all texts need one shape (positions, k), not {widths}; keep the same k"
            )
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
        """Yield every text with the slice of its positions."""
        bounds = np.searchsorted(self.offsets, self.text_starts).tolist()
        starts = self.text_starts.tolist()
        for i in range(len(starts) - 1):
            yield self.text[starts[i] : starts[i + 1]].tobytes().decode(), slice(bounds[i], bounds[i + 1])

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 over all arrays and names."""
        return _SEAL.hash(self._tensors, self._metadata)

    def check(self, source: Vocabulary) -> None:
        """Check that the ids are those of this vocabulary.

        Raises:
            VocabridgeError: The distributions are over another vocabulary, or hold an id beyond its size.
        """
        if source.fingerprint != self.source:
            raise VocabridgeError(
                f"the distributions of {self.model} are over another vocabulary ({self.source[:12]}) than "
                f"{source.name} ({source.fingerprint[:12]}); write them again with the model of {source.name}"
            )
        if self.ids.max(initial=0) >= source.size:
            raise VocabridgeError(
                f"the distributions of {self.model} hold the id {self.ids.max()}, but {source.name} has only "
                f"{source.size} ids; {_SEAL.remedy}"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        _SEAL.write(path, self._tensors, self._metadata)

    @classmethod
    def open(cls, path: str | Path) -> Distributions:
        """Read a file that `save` wrote.

        Raises:
            VocabridgeError: The file is missing, of another kind, altered or truncated.
        """
        tensors, metadata = _SEAL.read(path)
        try:
            return cls(**tensors, source=metadata["source"], model=metadata["model"])
        except (TypeError, KeyError) as error:
            raise VocabridgeError(f"{path}: not readable as {_SEAL.what} ({error}); {_SEAL.remedy}") from error

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
    def _metadata(self) -> dict[str, Any]:
        return {"source": self.source, "model": self.model}

    def _problem(self) -> str | None:
        """Describe the first invalid array, or return None."""
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
            return "a row of probabilities has a negative value or NaN, or sums to more than 1"
        if (np.diff(p, axis=1) > 0).any():
            return "a row of probabilities does not descend"
        return None
