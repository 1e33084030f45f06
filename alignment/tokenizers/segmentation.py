"""Cutting with a tokenizer: text into tokens with their starts, and any byte string into ids."""

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
"""How many control tokens, besides those with a role, are tried to find the prepended space after control tokens."""

_NOWHERE = b"\xff"
"""Bytes that are in no UTF-8 text, for ids that no text contains."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The part of a `Vocabulary` that cuts text and bytes: a tokenizer, and the bytes that each of its ids stands for.

    Attributes:
        name: The name of its source, for people.
        size: The number of ids, which is the logit width.
        token_bytes: The bytes of every id, `size` of them; None for CONTROL and UNUSED.
        kinds: The `TokenKind` of every id, (size,) int8.
        lengths: The number of bytes of every id, (size,) int32; 0 for CONTROL and UNUSED.
        roles: Role -> id: "bos", "eos", "pad" and "unk", as far as the tokenizer's files name them, and "turn begin",
            "turn content" and "turn end", as far as its chat template has them (see `chat`).
        tokenizer: The bare tokenizer, without post-processor, truncation, padding, dropout and prepended space, which
            adds nothing to a text; see `encode`.
        native: The bare tokenizer with the prepended space, for text that a model reads; see `encode_prompt`.
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
        """Role -> id, for the roles that control tokens have."""
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
        """Bytes -> id that the tokenizer emits for them, for all byte strings that an id stands for.

        If several ids stand for the same bytes (Gemma's `A` and `<0x41>`), it is the id to which the tokenizer encodes
        the bytes. If the tokenizer gives none of these ids, it is the lowest of kind TEXT.
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
        """Encode a text without a prepended space, as text that continues other text is encoded; see `Encoding`.

        Special tokens that are spelled in the text become control tokens, which have a start like other tokens.

        Raises:
            VocabridgeError: The text contains half of a surrogate pair.
        """
        return self.encode_batch([text])[0]

    def encode_prompt(self, text: str) -> Encoding:
        """Encode a text as the model's own tokenizer does, but without the bos token in front; see `Encoding`.

        A space that the tokenizer puts in front of a text or after a control token is not in the text. A token that
        consists of this space alone starts where the next token does.

        Raises:
            VocabridgeError: The text contains half of a surrogate pair.
        """
        if self.native is self.tokenizer:
            return self.encode(text)
        as_utf8(text)
        with panics_as_errors(self.name):
            native = self.native.encode(text, add_special_tokens=False)
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
            place, start = Place.AFTER_CONTROL, start + len(part.encode())
        if ids == [i for i in native.ids if i < self.size]:
            return Encoding(np.array(ids, np.int32), np.array(starts, np.int64))
        return self._locate(text, native.ids, native.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts in parallel; see `encode`."""
        results: list[Encoding | None] = []
        data = [*map(as_utf8, texts)]
        for text_bytes, text_ids in zip(data, self.ids_batch(texts), strict=True):
            ids = np.array(text_ids, np.int32)
            all_have_rows = ids.max(initial=0) < self.size
            if all_have_rows and b"".join(self._written[0][ids].tolist()) == text_bytes:
                lengths = self._written[1][ids]
                results.append(Encoding(ids, np.cumsum(lengths) - lengths))
            else:
                results.append(None)
        # In the other texts the tokenizer changed or skipped something, so the offsets are needed.
        changed = [i for i, result in enumerate(results) if result is None]
        with panics_as_errors(self.name):
            encodings = self.tokenizer.encode_batch([texts[i] for i in changed], add_special_tokens=False)
        for i, encoding in zip(changed, encodings, strict=True):
            results[i] = self._locate(texts[i], encoding.ids, encoding.offsets)
        return [result for result in results if result is not None]

    def ids_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids that the tokenizer gives for each text, including ids that the model has no row for."""
        return self._encoded(self.tokenizer, texts)

    def spell(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes that each token of a text stands for, without prepended spaces; b"" for control tokens."""
        spelled: list[bytes] = []
        place = Place.BEGINNING
        for number, i in enumerate(ids):
            data = self.token_bytes[i]
            spelled.append(b"" if data is None else self.prefix_space.strip(data, place))
            if number or i != self.roles.get("bos"):
                place = place.after(i if data is None else data)
        return spelled

    def with_prefixes(self, text: str, place: Place) -> str:
        """Return a text at a place with the spaces that the tokenizer prepends to it and after control tokens in it."""
        if self.prefix_space.after_control is Rule.NEVER:
            return text if text.startswith(self._special_names) else self.prefix_space.prefix(text, place) + text
        parts = []
        for special, part in self._sections(text):
            parts.append(part if special is not None else self.prefix_space.prefix(part, place) + part)
            place = Place.AFTER_CONTROL
        return "".join(parts)

    def pieces(self, text: str) -> list[bytes | int]:
        """Cut a text at its control tokens into runs of text (UTF-8, never empty) and ids of control tokens.

        Raises:
            VocabridgeError: The text contains half of a surrogate pair.
        """
        as_utf8(text)
        with panics_as_errors(self.name):
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        unknown = self.roles.get("unk")
        pieces: list[bytes | int] = []
        at = 0
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i < self.size and self.kinds[i] == TokenKind.CONTROL and i != unknown:
                pieces += [*([text[at:start].encode()] if at < start else []), i]
                at = end
        return [*pieces, text[at:].encode()] if at < len(text) else pieces

    def segment(self, data: bytes) -> tuple[int, ...]:
        """Cut any byte string, UTF-8 or not, into ids; see `segment_batch`."""
        return self.segment_batch([data])[0]

    def segment_batch(self, batch: Sequence[bytes]) -> list[tuple[int, ...]]:
        """Cut byte strings into ids of this vocabulary.

        Each byte string gets the first of these that exists: the tokenizer's ids, if they spell exactly the bytes; the
        longest matches from the first byte on, if they cover all bytes; the tokenizer's usable ids for the changed text
        (case, accents, spaces between words); the unknown token; ().
        """
        results = self._try_tokenizer(batch)
        for i, (data, ids) in enumerate(zip(batch, results, strict=True)):
            if not self._spells(ids, data):
                unknown = self.roles.get("unk")
                usable = tuple(t for t in ids if t < self.size and self.token_bytes[t] is not None)
                results[i] = self._longest(data) or usable or (() if unknown is None else (unknown,))
        return results

    @functools.cached_property
    def prefix_space(self) -> PrefixSpace:
        """The rules by which the tokenizer puts a space in front of text."""
        if self.native is self.tokenizer:
            return PrefixSpace()
        named = [*self.control_roles.values(), *np.flatnonzero(self.kinds == TokenKind.CONTROL).tolist()[:_CONTROLS]]
        controls = [(i, self.tokenizer.id_to_token(i) or "") for i in dict.fromkeys(named)]
        normalizer = self.tokenizer.normalizer
        normalize = str if normalizer is None else normalizer.normalize_str
        return PrefixSpace.of(lambda texts: self._encoded(self.native, texts), self.ids_batch, normalize, controls)

    @functools.cached_property
    def _special(self) -> Mapping[int, str]:
        """Id -> name of the special tokens, which are matched in a text."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {i: token.content for i, token in added.items() if token.special}

    @functools.cached_property
    def _special_names(self) -> tuple[str, ...]:
        return tuple(self._special.values())

    def _sections(self, text: str) -> list[tuple[int | None, str]]:
        """Cut a text at the special tokens that it spells, into (id of the special token or None, part of the text)."""
        with panics_as_errors(self.name):
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        sections: list[tuple[int | None, str]] = []
        at = 0
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # The unknown token may be special, too, and is emitted for text that does not spell its name.
            if i in self._special and self._special[i] in text[start:end]:
                sections += [*([(None, text[at:start])] if at < start else []), (i, text[start:end])]
                at = end
        return [*sections, (None, text[at:])] if at < len(text) else sections

    @functools.cached_property
    def _written(self) -> tuple[np.ndarray[Any, Any], Int64]:
        """The bytes that spell each id in a text, (size,) objects, and their lengths, (size,).

        A special token is spelled by its name.
        """
        names = {i: added.content.encode() for i, added in self.tokenizer.get_added_tokens_decoder().items()}
        written = np.empty(self.size, object)
        written[:] = [names.get(i, _NOWHERE) if data is None else data for i, data in enumerate(self.token_bytes)]
        return written, np.fromiter(map(len, written), np.int64, self.size)

    def _encoded(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        with panics_as_errors(self.name):
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _try_tokenizer(self, batch: Sequence[bytes]) -> list[tuple[int, ...]]:
        """Encode the byte strings that are UTF-8; the others get ()."""
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
        """Whether the joined bytes of the ids are the data."""
        try:
            return b"".join(map(self.token_bytes.__getitem__, ids)) == data  # type: ignore[arg-type]
        except (TypeError, IndexError):  # a control token, or an id that the model has no row for
            return False

    @functools.cached_property
    def _longest_token(self) -> int:
        return int(self.lengths.max(initial=0))

    def _longest(self, data: bytes) -> tuple[int, ...]:
        """Cover the data from its first byte on with longest matches; return () if that is impossible."""
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
        """Find the starts of tokens whose joined bytes are not the text, with the help of their character offsets.

        If the bytes of a token are in the text directly after the previous token, or else at the token's first
        character, the token starts there. Otherwise the tokenizer has changed the text, and the token starts at its
        first character, or at -1 if an earlier token starts there or later.
        """
        data = text.encode()
        widths = np.array([len(character.encode()) for character in text], np.int64)
        byte_of = np.concatenate(([0], np.cumsum(widths))).tolist()
        kept, starts, cursor, last = [], [], 0, -1
        for i, (first, end) in zip(ids, offsets, strict=True):
            if i >= self.size:  # the model has no row for it
                continue
            low, high = byte_of[first], byte_of[end]
            token = self.token_bytes[i]
            if token is not None and cursor <= high and data.startswith(token, cursor):
                start, cursor = cursor, cursor + len(token)
            elif token is not None and data.startswith(token, low) and low > last:
                start, cursor = low, low + len(token)
            else:
                start, cursor = low if low > last else -1, max(cursor, high)
            kept.append(i)
            starts.append(start)
            last = max(last, start)
        return Encoding(np.array(kept, np.int32), np.array(starts, np.int64))
