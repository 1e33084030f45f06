"""How a tokenizer cuts: text into tokens with their starts, and any bytes into ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vocabridge.alignment.arrays import Int8, Int32, Int64
from vocabridge.alignment.text import as_utf8
from vocabridge.alignment.tokenizers.panics import panics_as_errors
from vocabridge.alignment.tokenizers.prefix_space import Place, PrefixSpace, Rule
from vocabridge.alignment.tokenizers.tokens import Encoding, TokenKind

_CONTROLS = 8
"""At most so many control tokens without a role are tried for what is put behind them."""

_NOWHERE = b"\xff"
"""In no UTF-8 text: what is written for an id that stands in none."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The part of a `Vocabulary` that cuts: a tokenizer, and what bytes each of its ids stands for.

    Attributes:
        name: Where it came from, for people only.
        size: The number of ids, which is the logit width.
        token_bytes: The bytes of every id, `size` of them; None for CONTROL and UNUSED.
        kinds: (size,) int8, a `TokenKind` each.
        lengths: (size,) int32, bytes per token; 0 where there are none.
        roles: "bos", "eos", "pad", "unk" -> id, those that the tokenizer's files name, and "turn begin",
            "turn content", "turn end", those that its chat template has (see `chat`).
        tokenizer: The tokenizer without post-processor, truncation, padding, dropout and prepended space,
            so that a text is encoded as itself; see `encode`.
        native: The same with the prepended space: what a model is given; see `encode_prompt`.
    """

    name: str
    size: int
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    kinds: Int8 = field(repr=False)
    lengths: Int32 = field(repr=False)
    roles: Mapping[str, int]
    tokenizer: Tokenizer = field(repr=False)
    native: Tokenizer = field(repr=False)

    @functools.cached_property
    def usable(self) -> Int64:
        """The ids that stand for bytes (TEXT and BYTE), sorted, int64."""
        return np.flatnonzero((self.kinds == TokenKind.TEXT) | (self.kinds == TokenKind.BYTE))

    @functools.cached_property
    def control_roles(self) -> Mapping[str, int]:
        """The roles that control tokens have."""
        return {role: i for role, i in self.roles.items() if self.kinds[i] == TokenKind.CONTROL}

    @functools.cached_property
    def _by_bytes(self) -> dict[bytes, tuple[int, ...]]:
        groups: dict[bytes, tuple[int, ...]] = {}
        for i, data in enumerate(self.token_bytes):
            if data is not None:
                groups[data] = (*groups.get(data, ()), i)
        return groups

    @functools.cached_property
    def canonical(self) -> Mapping[bytes, int]:
        """The id that the tokenizer emits for each byte string that some id stands for.

        Where several ids share the bytes (Gemma's `A` and `<0x41>`) it is the one that encoding the bytes
        gives, else the lowest of kind TEXT.
        """
        chosen = {data: ids[0] for data, ids in self._by_bytes.items()}
        shared = [data for data, ids in self._by_bytes.items() if len(ids) > 1]
        for data, emitted in zip(shared, self._try_tokenizer(shared), strict=True):
            ids = self._by_bytes[data]
            first = min(ids, key=lambda i: (self.kinds[i], i))
            chosen[data] = emitted[0] if len(emitted) == 1 and emitted[0] in ids else first
        return chosen

    def ids_of(self, data: bytes) -> tuple[int, ...]:
        """Return all ids that stand for exactly these bytes, sorted; () when there is none."""
        return self._by_bytes.get(data, ())

    def encode(self, text: str) -> Encoding:
        """Encode a text as itself, as what goes on behind other text: nothing is put in front; see `Encoding`.

        Special tokens that stand in the text are matched, as the tokenizer does: their ids are CONTROL, with a start.

        Raises:
            VocabridgeError: The text holds half of a surrogate pair.
        """
        return self.encode_batch([text])[0]

    def encode_prompt(self, text: str) -> Encoding:
        """Encode a text as the model's own tokenizer does, without the bos token in front; see `Encoding`.

        Where the tokenizer puts a space in front of a text, or behind a control token, that space is in no text: a
        token that is no more than that starts where the next one does.

        Raises:
            VocabridgeError: The text holds half of a surrogate pair.
        """
        if self.native is self.tokenizer:
            return self.encode(text)
        as_utf8(text)
        with panics_as_errors(self.name):
            found = self.native.encode(text, add_special_tokens=False)
        ids: list[int] = []
        starts: list[int] = []
        place, start = Place.BEGINNING, 0
        for special, part in self._sections(text):
            if special is None:
                prefix = self.prefix_space.prefix(part, place)
                encoding = self.encode(prefix + part)
                ids += encoding.ids.tolist()
                starts += [s if s < 0 else start + max(0, s - len(prefix)) for s in encoding.starts.tolist()]
            elif special < self.size:
                ids, starts = [*ids, special], [*starts, start]
            place, start = Place.BEHIND_CONTROL, start + len(part.encode())
        if ids == [i for i in found.ids if i < self.size]:
            return Encoding(np.array(ids, np.int32), np.array(starts, np.int64))
        return self._locate(text, found.ids, found.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts in parallel; see `encode`."""
        results: list[Encoding | None] = []
        data = [*map(as_utf8, texts)]
        for written, quick in zip(data, self.ids_batch(texts), strict=True):
            ids = np.array(quick, np.int32)
            known = ids.max(initial=0) < self.size
            if known and b"".join(self._written[0][ids].tolist()) == written:
                lengths = self._written[1][ids]
                results.append(Encoding(ids, np.cumsum(lengths) - lengths))
            else:
                results.append(None)
        # The rest: the tokenizer changed or skipped some text. Offsets tell where.
        changed = [i for i, result in enumerate(results) if result is None]
        with panics_as_errors(self.name):
            offsets = self.tokenizer.encode_batch([texts[i] for i in changed], add_special_tokens=False)
        for i, found in zip(changed, offsets, strict=True):
            results[i] = self._locate(texts[i], found.ids, found.offsets)
        return [result for result in results if result is not None]

    def ids_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as the tokenizer gives them: ids that the model has no row for among them."""
        return self._encoded(self.tokenizer, texts)

    def spell(self, ids: Sequence[int]) -> list[bytes]:
        """Return the text that each of a text's tokens stands for: without prepended spaces, b"" for control tokens."""
        spelled: list[bytes] = []
        place = Place.BEGINNING
        for number, i in enumerate(ids):
            data = self.token_bytes[i]
            spelled.append(b"" if data is None else self.prefix_space.strip(data, place))
            if number or i != self.roles.get("bos"):
                place = place.after(i if data is None else data)
        return spelled

    def with_prefixes(self, text: str, place: Place) -> str:
        """Return a text that stands at a place with the spaces that the tokenizer puts in front of its parts."""
        if self.prefix_space.behind_control is Rule.NEVER:
            return text if text.startswith(self._special_names) else self.prefix_space.prefix(text, place) + text
        written = []
        for special, part in self._sections(text):
            written.append(part if special is not None else self.prefix_space.prefix(part, place) + part)
            place = Place.BEHIND_CONTROL
        return "".join(written)

    def pieces(self, text: str) -> list[bytes | int]:
        """Cut a text at its control tokens: runs of text as UTF-8, none empty, and ids of control tokens.

        Raises:
            VocabridgeError: The text holds half of a surrogate pair.
        """
        as_utf8(text)
        with panics_as_errors(self.name):
            found = self.tokenizer.encode(text, add_special_tokens=False)
        unknown = self.roles.get("unk")
        pieces: list[bytes | int] = []
        at = 0
        for i, (start, end) in zip(found.ids, found.offsets, strict=True):
            if i < self.size and self.kinds[i] == TokenKind.CONTROL and i != unknown:
                pieces += [*([text[at:start].encode()] if at < start else []), i]
                at = end
        return [*pieces, text[at:].encode()] if at < len(text) else pieces

    def segment(self, data: bytes) -> tuple[int, ...]:
        """Cut any byte string, UTF-8 or not, into ids; see `segment_batch`."""
        return self.segment_batch([data])[0]

    def segment_batch(self, batch: Sequence[bytes]) -> list[tuple[int, ...]]:
        """Cut byte strings into ids of this vocabulary.

        The first of these that succeeds: what the tokenizer itself makes of it, if that spells the very bytes; the
        longest match over bytes, if it covers the data from its first byte on; what the tokenizer makes of it after
        changing it (case, accents, spaces between words); the unknown token. () when all fail.
        """
        results = self._try_tokenizer(batch)
        for i, (data, own) in enumerate(zip(batch, results, strict=True)):
            if not self._spells(own, data):
                unknown = self.roles.get("unk")
                usable = tuple(t for t in own if t < self.size and self.token_bytes[t] is not None)
                results[i] = self._longest(data) or usable or (() if unknown is None else (unknown,))
        return results

    @functools.cached_property
    def prefix_space(self) -> PrefixSpace:
        """Where the tokenizer puts a space in front of text."""
        if self.native is self.tokenizer:
            return PrefixSpace()
        named = [*self.control_roles.values(), *np.flatnonzero(self.kinds == TokenKind.CONTROL).tolist()[:_CONTROLS]]
        controls = [(i, self.tokenizer.id_to_token(i) or "") for i in dict.fromkeys(named)]
        normalizer = self.tokenizer.normalizer
        normalize = str if normalizer is None else normalizer.normalize_str
        return PrefixSpace.of(lambda texts: self._encoded(self.native, texts), self.ids_batch, normalize, controls)

    @functools.cached_property
    def _special(self) -> Mapping[int, str]:
        """The names of special tokens, which are matched in a text."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {i: token.content for i, token in added.items() if token.special}

    @functools.cached_property
    def _special_names(self) -> tuple[str, ...]:
        return tuple(self._special.values())

    def _sections(self, text: str) -> list[tuple[int | None, str]]:
        """Cut a text at the special tokens that it spells: their ids, None for other text, and what is there."""
        with panics_as_errors(self.name):
            found = self.tokenizer.encode(text, add_special_tokens=False)
        sections: list[tuple[int | None, str]] = []
        at = 0
        for i, (start, end) in zip(found.ids, found.offsets, strict=True):
            if (
                i in self._special and self._special[i] in text[start:end]
            ):  # else unknown: no token spells what is there
                sections += [*([(None, text[at:start])] if at < start else []), (i, text[start:end])]
                at = end
        return [*sections, (None, text[at:])] if at < len(text) else sections

    @functools.cached_property
    def _written(self) -> tuple[np.ndarray[Any, Any], Int64]:
        """The bytes by which each id stands in a text, (size,) objects, and their lengths, (size,).

        A special token stands there by its name.
        """
        names = {i: added.content.encode() for i, added in self.tokenizer.get_added_tokens_decoder().items()}
        written = np.empty(self.size, object)
        written[:] = [names.get(i, _NOWHERE) if data is None else data for i, data in enumerate(self.token_bytes)]
        return written, np.fromiter(map(len, written), np.int64, self.size)

    def _encoded(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        with panics_as_errors(self.name):
            found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def _try_tokenizer(self, batch: Sequence[bytes]) -> list[tuple[int, ...]]:
        """Encode those of the byte strings that are UTF-8; () for the others."""
        results: list[tuple[int, ...]] = [()] * len(batch)
        texts: dict[int, str] = {}
        for i, data in enumerate(batch):
            try:
                texts[i] = data.decode()
            except UnicodeDecodeError:
                continue
        for i, ids in zip(texts, self.ids_batch(list(texts.values())), strict=True):
            results[i] = tuple(ids)
        return results

    def _spells(self, ids: Sequence[int], data: bytes) -> bool:
        """Whether the bytes of the ids, put together, are the data."""
        try:
            return b"".join(map(self.token_bytes.__getitem__, ids)) == data  # type: ignore[arg-type]
        except (TypeError, IndexError):  # a CONTROL token; an id beyond the model's width
            return False

    @functools.cached_property
    def _longest_token(self) -> int:
        return int(self.lengths.max(initial=0))

    def _longest(self, data: bytes) -> tuple[int, ...]:
        """Cover the data from its first byte on by longest matches; () where that is impossible."""
        ids, at = [], 0
        while at < len(data):
            for end in range(min(len(data), at + self._longest_token), at, -1):
                if (i := self.canonical.get(data[at:end])) is not None:
                    ids.append(i)
                    at = end
                    break
            else:
                return ()
        return tuple(ids)

    def _locate(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Encoding:
        """Find the starts of tokens that do not simply follow each other, from character offsets.

        A token whose bytes stand in the text right where the one before ended starts there, or else at its
        character; otherwise (changed text) it starts at its character, and at -1 if an earlier one already
        does.
        """
        data = text.encode()
        widths = np.array([len(character.encode()) for character in text], np.int64)
        byte_of = np.concatenate(([0], np.cumsum(widths))).tolist()
        kept, starts, cursor, last = [], [], 0, -1
        for i, (first, end) in zip(ids, offsets, strict=True):
            if i >= self.size:  # the model has no row for it
                continue
            low, high = byte_of[first], byte_of[end]
            own = self.token_bytes[i]
            if own is not None and cursor <= high and data.startswith(own, cursor):
                start, cursor = cursor, cursor + len(own)
            elif own is not None and data.startswith(own, low) and low > last:
                start, cursor = low, low + len(own)
            else:
                start, cursor = low if low > last else -1, max(cursor, high)
            kept.append(i)
            starts.append(start)
            last = max(last, start)
        return Encoding(np.array(kept, np.int32), np.array(starts, np.int64))
