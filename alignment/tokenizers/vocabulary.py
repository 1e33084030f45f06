"""The byte-exact view of a tokenizer: what bytes every id stands for, and where a text's tokens start.

A `Vocabulary` is as wide as the model's logits, which is neither the tokenizer's length nor its highest id
plus one: a model may have more rows than the tokenizer has tokens (padding: UNUSED), the tokenizer may skip
ids (holes: UNUSED), or know ids that the model has no row for (dropped).

Two vocabularies may be the same in three ways: they make the same tokens of any text (`fingerprint`), their control
tokens have the same roles (`control_roles`), they have as many rows (`size`).
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tokenizers import AddedToken, Tokenizer

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.hub import reach_repository
from vocabridge.alignment.inputs import plain_file
from vocabridge.alignment.text import as_utf8
from vocabridge.alignment.tokenizers.byteview import Spelling, components, is_unused_name
from vocabridge.alignment.tokenizers.changes import text_changes
from vocabridge.alignment.tokenizers.chat import chat_roles
from vocabridge.alignment.tokenizers.downloads import check_downloads
from vocabridge.alignment.tokenizers.gguf import UNUSED as GGUF_UNUSED
from vocabridge.alignment.tokenizers.gguf import read_gguf_tokenizer
from vocabridge.alignment.tokenizers.panics import panics_as_errors
from vocabridge.alignment.tokenizers.prefix_space import Place, PrefixSpace, Rule
from vocabridge.alignment.tokenizers.settings import ROLE_TOKENS, TokenizerSettings, chosen_template
from vocabridge.alignment.tokenizers.template_renderer import TemplateError, render
from vocabridge.alignment.tokenizers.tiktoken import read_tekken, refuse_sentencepiece
from vocabridge.alignment.tokenizers.tiktoken_folder import read_tiktoken_folder
from vocabridge.alignment.tokenizers.unknown import unknown_id, with_unknown

logger = logging.getLogger("vocabridge")

Int8: TypeAlias = np.ndarray[Any, np.dtype[np.int8]]
Int32: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]
Int64: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_CONTROLS = 8
"""At most so many control tokens without a role are tried for what is put behind them."""

_NOWHERE = b"\xff"
"""In no UTF-8 text: what is written for an id that stands in none."""

_WIDEST = 1 << 24
"""Ids: some 60 times as many as any model has, and what a few hundred megabytes hold."""

_TOKENIZERS = ("tekken.json", "tokenizer.json", "tiktoken.model", "tokenizer.model")
"""Files that hold a tokenizer; a folder is read by the first that it has."""

_FOLDER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "chat_template.jinja",
    *_TOKENIZERS,
)


class TokenKind(enum.IntEnum):
    """What an id is.

    Attributes:
        TEXT: Stands for text.
        BYTE: Stands for one byte as such: `<0xXX>`, or a byte of a byte-level alphabet that is no character.
        CONTROL: Steers the model (begin, end, padding, chat markers, the unknown token); stands for no bytes.
        UNUSED: Stands for nothing: reserved names, holes among the ids, rows that pad the model's width.
    """

    TEXT = 0
    BYTE = 1
    CONTROL = 2
    UNUSED = 3


@dataclass(frozen=True)
class Encoding:
    """A text as tokens.

    Attributes:
        ids: (n,) int32.
        starts: (n,) int64, the byte of the UTF-8 text at which each token starts, increasing. A token that
            has no start of its own is -1: where the tokenizer changed the text, several tokens may come
            from one character, and only the first of them starts there.
    """

    ids: Int32
    starts: Int64


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """An immutable byte view of one tokenizer, as wide as its model's logits.

    Attributes:
        name: Where it came from, for people only.
        size: The number of ids, which is the logit width.
        token_bytes: The bytes of every id, `size` of them; None for CONTROL and UNUSED.
        kinds: (size,) int8, a `TokenKind` each.
        lengths: (size,) int32, bytes per token; 0 where there are none.
        roles: "begin", "end", "pad", "unknown" -> id, those that the tokenizer's files name, and "turn begin",
            "turn content", "turn end", those that its chat template has (see `chat`).
        adds_begin: Whether the model expects the begin token in front of every text.
        fingerprint: Hex SHA-256 over the ids and bytes of text tokens and all that decides how text is cut. Width,
            roles, control tokens and the chat template have no part in it.
        tokenizer: The tokenizer without post-processor, truncation, padding, dropout and prepended space,
            so that a text is encoded as itself; see `encode`.
        native: The same with the prepended space: what a model is given; see `encode_prompt`.
        template: Its chat template, None if it has none.
    """

    name: str
    size: int
    token_bytes: tuple[bytes | None, ...] = field(repr=False)
    kinds: Int8 = field(repr=False)
    lengths: Int32 = field(repr=False)
    roles: Mapping[str, int]
    adds_begin: bool
    fingerprint: str
    tokenizer: Tokenizer = field(repr=False)
    native: Tokenizer = field(repr=False)
    template: str | None = field(default=None, repr=False)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Any,
        *,
        size: int | None = None,
        name: str | None = None,
        roles: Mapping[str, int] | None = None,
        adds_begin: bool | None = None,
    ) -> Vocabulary:
        """Take the byte view of a `tokenizers.Tokenizer` or of a fast tokenizer of transformers.

        Args:
            tokenizer: The tokenizer; it is copied, not changed.
            size: The model's logit width; by default the highest id plus one.
            name: For people; by default the name the tokenizer knows itself by.
            roles: A role -> id each; by default those that a transformers tokenizer names, and those of its
                chat template.
            adds_begin: By default, whether the tokenizer's post-processor adds the begin token.

        Raises:
            VocabridgeError: It is no fast tokenizer, or a role's id is not below `size`.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise VocabridgeError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; load one that has a tokenizer.json."
            )
        template = chosen_template(getattr(tokenizer, "chat_template", None))
        given = roles is not None
        if roles is None:
            named = {role: getattr(tokenizer, f"{token}_token_id", None) for role, token in ROLE_TOKENS.items()}
            roles = {role: i for role, i in named.items() if i is not None and i >= 0}
        name = name or str(getattr(tokenizer, "name_or_path", "") or "tokenizer")
        copy = Tokenizer.from_str(backend.to_str())
        taken = None if given else template
        view = cls._view(copy, size=size, name=name, roles=roles, adds_begin=adds_begin, template=taken)
        return replace(view, template=template)

    @classmethod
    def load(cls, source: str | Path, *, size: int | None = None) -> Vocabulary:
        """Load the byte view of a tokenizer.json, a tekken.json, a model's folder, a GGUF file or a hub id.

        A folder needs tokenizer.json or tekken.json; config.json gives the logit width, tokenizer_config.json and
        the chat template the roles.

        Args:
            source: The path, or a hub id such as "google/gemma-3-270m" (only its small JSON files are
                fetched).
            size: The model's logit width, where the source does not say it or says it wrongly.

        Raises:
            VocabridgeError: The source is missing, unreadable, or holds no fast tokenizer.
        """
        path = Path(source)
        if path.is_dir():
            return cls._from_folder({n: path / n for n in _FOLDER_FILES if (path / n).is_file()}, str(path), size)
        if path.is_file():
            check_downloads(path)
        if path.suffix == ".gguf" and path.is_file():
            read = read_gguf_tokenizer(path)
            unused = frozenset(np.flatnonzero(read.token_types == GGUF_UNUSED).tolist())
            return cls._view(
                read.tokenizer,
                size=size or read.size,
                name=str(path),
                roles=read.roles,
                adds_begin=read.adds_begin,
                unused=unused,
                tokens=list(enumerate(read.tokens)),
                added=read.added,
                template=read.chat_template,
            )
        if path.suffix in (".tiktoken", ".model") and path.is_file():
            refuse_sentencepiece(path)
            raise VocabridgeError(
                f"{path}: such a file does not say how text is cut into words; name the model's tokenizer.json, or "
                "give what `alignment.tiktoken_tokenizer` makes of it and a pattern to `Vocabulary.from_tokenizer`."
            )
        if path.is_file() and "tekken" in path.name:
            return cls._from_tekken(path, str(path), size)
        if path.exists():
            return cls._from_files({"tokenizer.json": plain_file(path)}, str(path), size)
        return cls._from_folder(_fetch(str(source)), str(source), size)

    @classmethod
    def _from_folder(cls, files: Mapping[str, Path], name: str, size: int | None) -> Vocabulary:
        """Read what a folder holds: tekken.json, else tokenizer.json, else tiktoken.model.

        Mistral's tokenizer.json is a conversion of its tekken.json that cuts some words otherwise.
        """
        for file in files.values():
            check_downloads(file)
        if "tekken.json" in files:
            if "tokenizer.json" in files:
                logger.warning("%s: its tekken.json is read, not the tokenizer.json that was made of it.", name)
            settings = TokenizerSettings.read(files)
            return cls._from_tekken(files["tekken.json"], name, size or settings.width, settings.template)
        if "tokenizer.json" in files:
            return cls._from_files(files, name, size)
        if "tiktoken.model" in files:
            settings = TokenizerSettings.read(files)
            return cls._with_settings(read_tiktoken_folder(files["tiktoken.model"], settings), settings, name, size)
        if "tokenizer.model" in files:
            refuse_sentencepiece(files["tokenizer.model"])
        raise VocabridgeError(
            f"{Path(name) / 'tokenizer.json'}: no such file; save the fast tokenizer there, with transformers' "
            "save_pretrained."
        )

    @classmethod
    def _from_tekken(cls, path: Path, name: str, size: int | None, template: str | None = None) -> Vocabulary:
        """Read a tekken.json; Mistral's models expect the begin token."""
        read = read_tekken(path)
        return cls._view(
            read.tokenizer, size=size or read.size, name=name, roles=read.roles, adds_begin=True, template=template
        )

    @classmethod
    def _from_files(cls, files: Mapping[str, Path], name: str, size: int | None) -> Vocabulary:
        """Read tokenizer.json and what its companions say about width, roles and the begin token."""
        path = files["tokenizer.json"]
        try:
            with panics_as_errors(str(path)):
                tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8-sig"))
        except VocabridgeError:
            raise
        except Exception as error:  # tokenizers raises bare Exception for every malformed file
            raise VocabridgeError(f"{path}: not a tokenizer.json ({error}); download it again.") from error
        return cls._with_settings(tokenizer, TokenizerSettings.read(files), name, size)

    @classmethod
    def _with_settings(
        cls, tokenizer: Tokenizer, settings: TokenizerSettings, name: str, size: int | None
    ) -> Vocabulary:
        spelled = {role: tokenizer.token_to_id(token) for role, token in settings.tokens.items()}
        return cls._view(
            tokenizer,
            size=size or settings.width,
            name=name,
            roles={role: i for role, i in {**settings.ids, **spelled}.items() if i is not None},
            adds_begin=settings.adds_begin,
            template=settings.template,
        )

    @classmethod
    def _view(
        cls,
        tokenizer: Tokenizer,
        *,
        size: int | None,
        name: str,
        roles: Mapping[str, int],
        adds_begin: bool | None,
        unused: frozenset[int] = frozenset(),
        tokens: Sequence[tuple[int, str]] | None = None,
        added: Mapping[int, AddedToken] | None = None,
        template: str | None = None,
    ) -> Vocabulary:
        """Take the view of a tokenizer that is ours to change.

        Its own map from spelling to id has one id for each spelling, so a file in which several ids have one spelling
        gives `tokens` and `added` itself.
        """
        spec = json.loads(tokenizer.to_str())
        spelling = Spelling.of(spec)
        tokens = _tokens(spec["model"]) if tokens is None else tokens
        added = tokenizer.get_added_tokens_decoder() if added is None else added
        if size is None:
            size = 1 + max((*added, *(i for i, _ in tokens)), default=-1)
        if not 0 < size <= _WIDEST:
            raise VocabridgeError(
                f"{name}: a vocabulary of {size} ids cannot be; correct vocab_size in its config.json, or load a "
                "tokenizer that has tokens."
            )
        encoding = with_unknown(spec, size)
        if encoding is not spec:
            tokenizer = Tokenizer.from_str(json.dumps(encoding))
        unknown = unknown_id(spec)
        roles = dict(roles) if unknown is None else {"unknown": unknown} | dict(roles)
        if roles.get("pad", 0) >= size:  # added to the tokenizer for batches; the model never predicts it
            del roles["pad"]
        for role, i in roles.items():
            if not 0 <= i < size:
                raise VocabridgeError(
                    f"{name}: the {role} token has id {i}, but the vocabulary has {size} ids; correct "
                    f"{ROLE_TOKENS.get(role, role)}_token_id or vocab_size in its config.json, or take the config.json "
                    "of the model that the tokenizer belongs to."
                )
        control = {roles[role] for role in ("begin", "end", "unknown") if role in roles} | {unknown}

        token_bytes: list[bytes | None] = [None] * size
        kinds = np.full(size, TokenKind.UNUSED, np.int8)

        spelled: dict[int, tuple[TokenKind, bytes]] = {}  # by the tokenizer alone, whatever roles are given

        def put(i: int, token: str, data: bytes, special: bool) -> None:
            if i >= size or i in unused or not data or is_unused_name(token):
                return
            spelled.pop(i, None)
            if not special and i != unknown:
                spelled[i] = (TokenKind.BYTE if spelling.is_byte_token(token, data) else TokenKind.TEXT), data
            if special or i in control:
                kinds[i], token_bytes[i] = TokenKind.CONTROL, None
            else:
                kinds[i], token_bytes[i] = spelled[i]

        for i, token in tokens:
            put(i, token, spelling.token_bytes(token), special=False)
        for i, entry in added.items():
            put(i, entry.content, spelling.added_bytes(entry.content), special=entry.special)
        lengths = np.fromiter((len(b or b"") for b in token_bytes), np.int32, size)
        kinds.flags.writeable = lengths.flags.writeable = False

        if template is not None:
            roles |= _chat_roles(
                template, tokenizer, roles, set(np.flatnonzero(kinds == TokenKind.CONTROL).tolist()), name
            )

        with panics_as_errors(name):
            begins = "begin" in roles and (adds_begin or tokenizer.encode("a").ids[:1] == [roles["begin"]])
        return cls(
            name=name,
            size=size,
            token_bytes=tuple(token_bytes),
            kinds=kinds,
            lengths=lengths,
            roles=roles,
            adds_begin=begins if adds_begin is None else adds_begin and "begin" in roles,
            fingerprint=_fingerprint(spelled, _bare(spec)),
            tokenizer=(made := _made_bare(tokenizer, encoding, _bare(encoding))),
            native=_made_native(made, encoding, _bare(encoding)),
            template=template,
        )

    @functools.cached_property
    def changes(self) -> tuple[str, ...]:
        """What the tokenizer changes in a text, so that its tokens do not spell it; see `text_changes`."""
        with panics_as_errors(self.name):
            return text_changes(self.tokenizer)

    @functools.cached_property
    def usable(self) -> Int64:
        """The ids that stand for bytes (TEXT and BYTE), sorted, int64."""
        return np.flatnonzero((self.kinds == TokenKind.TEXT) | (self.kinds == TokenKind.BYTE))

    @functools.cached_property
    def control_roles(self) -> Mapping[str, int]:
        """The roles that control tokens have."""
        return {role: i for role, i in self.roles.items() if self.kinds[i] == TokenKind.CONTROL}

    def resized(self, size: int) -> Vocabulary:
        """Return the same vocabulary with another number of rows: unused ones are added, or the last are cut.

        A control token may be cut, and its role with it, and the chat template that writes it.

        Raises:
            VocabridgeError: A token that stands for text would be cut.
        """
        if size == self.size:
            return self
        if size <= (last := int(self.usable.max(initial=-1))):
            raise VocabridgeError(f"{self.name} cannot be cut to {size} ids, as id {last} stands for text.")
        more = max(0, size - self.size)
        kinds = np.concatenate((self.kinds[:size], np.full(more, TokenKind.UNUSED, np.int8)))
        lengths = np.concatenate((self.lengths[:size], np.zeros(more, np.int32)))
        kinds.flags.writeable = lengths.flags.writeable = False
        cut = [
            self.tokenizer.id_to_token(i) or ""
            for i in (np.flatnonzero(self.kinds[size:] == TokenKind.CONTROL) + size).tolist()
        ]
        written = self.template is not None and any(name and name in self.template for name in cut)
        roles = {role: i for role, i in self.roles.items() if i < size}
        return replace(
            self,
            size=size,
            token_bytes=(*self.token_bytes[:size], *[None] * more),
            kinds=kinds,
            lengths=lengths,
            roles=roles,
            adds_begin=self.adds_begin and "begin" in roles,
            template=None if written else self.template,
        )

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
        """Encode a text as the model's own tokenizer does, without the begin token in front; see `Encoding`.

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

    def with_prefixes(self, text: str, place: Place) -> str:
        """Return a text that stands at a place with the spaces that the tokenizer puts in front of its parts."""
        if self.prefix_space.behind_control is Rule.NEVER:
            return self.prefix_space.prefix(text, place) + text
        written = []
        for special, part in self._sections(text):
            written.append(part if special is not None else self.prefix_space.prefix(part, place) + part)
            place = Place.BEHIND_CONTROL
        return "".join(written)

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
    def _special(self) -> Mapping[int, str]:
        """The names of special tokens, which are matched in a text."""
        added = self.tokenizer.get_added_tokens_decoder()
        return {i: token.content for i, token in added.items() if token.special}

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

    def spell(self, ids: Sequence[int]) -> list[bytes]:
        """Return the text that each of a text's tokens stands for: without prepended spaces, b"" for control tokens."""
        spelled: list[bytes] = []
        place = Place.BEGINNING
        for number, i in enumerate(ids):
            data = self.token_bytes[i]
            spelled.append(b"" if data is None else self.prefix_space.strip(data, place))
            if number or i != self.roles.get("begin"):
                place = place.after(i if data is None else data)
        return spelled

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
                unknown = self.roles.get("unknown")
                usable = tuple(t for t in own if t < self.size and self.token_bytes[t] is not None)
                results[i] = self._longest(data) or usable or (() if unknown is None else (unknown,))
        return results

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Write a conversation as the tokenizer's chat template does.

        Args:
            messages: With "role" and "content" each.
            add_generation_prompt: Write the beginning of an assistant's message behind them.

        Raises:
            VocabridgeError: There is no chat template, or it does not take these messages.
        """
        if self.template is None:
            raise VocabridgeError(
                f"{self.name} has no chat template; give plain text, or load a tokenizer that has a template"
            )
        tokens = _named_tokens(self.tokenizer, self.roles)
        try:
            return render(self.template, tokens, messages, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            raise VocabridgeError(
                f"the chat template of {self.name} does not take these messages ({error}); give a list of messages, "
                'each with "role" and "content"'
            ) from error

    def pieces(self, text: str) -> list[bytes | int]:
        """Cut a text at its control tokens: runs of text as UTF-8, none empty, and ids of control tokens.

        Raises:
            VocabridgeError: The text holds half of a surrogate pair.
        """
        as_utf8(text)
        with panics_as_errors(self.name):
            found = self.tokenizer.encode(text, add_special_tokens=False)
        unknown = self.roles.get("unknown")
        pieces: list[bytes | int] = []
        at = 0
        for i, (start, end) in zip(found.ids, found.offsets, strict=True):
            if i < self.size and self.kinds[i] == TokenKind.CONTROL and i != unknown:
                pieces += [*([text[at:start].encode()] if at < start else []), i]
                at = end
        return [*pieces, text[at:].encode()] if at < len(text) else pieces

    @functools.cached_property
    def _written(self) -> tuple[np.ndarray[Any, Any], Int64]:
        """The bytes by which each id stands in a text, (size,) objects, and their lengths, (size,).

        A special token stands there by its name.
        """
        names = {i: added.content.encode() for i, added in self.tokenizer.get_added_tokens_decoder().items()}
        written = np.empty(self.size, object)
        written[:] = [names.get(i, _NOWHERE) if data is None else data for i, data in enumerate(self.token_bytes)]
        return written, np.fromiter(map(len, written), np.int64, self.size)

    def ids_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as the tokenizer gives them: ids that the model has no row for among them."""
        return self._encoded(self.tokenizer, texts)

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


def _chat_roles(
    template: str, tokenizer: Tokenizer, roles: Mapping[str, int], control: set[int], name: str
) -> dict[str, int]:
    """Return the roles of a chat template; none, with a warning, where it cannot be rendered."""
    unknown = roles.get("unknown")

    def controls(text: str) -> list[int]:
        with panics_as_errors(name):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [i for i in ids if i in control and i != unknown]

    try:
        return chat_roles(template, _named_tokens(tokenizer, roles), controls)
    except TemplateError as error:
        logger.warning("%s: no roles from its chat template, which cannot be rendered (%s).", name, error)
        return {}


def _named_tokens(tokenizer: Tokenizer, roles: Mapping[str, int]) -> dict[str, str]:
    """Return what a chat template may refer to: bos_token and so on, "" where there is none."""
    named = {f"{token}_token": roles.get(role) for role, token in ROLE_TOKENS.items()}
    return {token: "" if i is None else tokenizer.id_to_token(i) or "" for token, i in named.items()}


def _tokens(model: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the ids of a model's vocabulary with their spellings; a Unigram's may give one spelling to several ids."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        return sorted((i, token) for token, i in vocab.items())
    return [(i, token) for i, (token, _) in enumerate(vocab)]


def _bare(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a copy that encodes a text as itself: nothing put in front, cut off, padded or random."""
    bare = dict(spec, post_processor=None, truncation=None, padding=None)
    if bare["model"].get("dropout"):
        bare["model"] = dict(bare["model"], dropout=None)
    bare["normalizer"] = _without_prepended_space(spec["normalizer"])
    # After WhitespaceSplit the prepended space is no addition: it stands for the space just cut away.
    if not any(part["type"] == "WhitespaceSplit" for part in components(spec["pre_tokenizer"])):
        bare["pre_tokenizer"] = _without_prepended_space(spec["pre_tokenizer"])
    return bare


def _made_bare(tokenizer: Tokenizer, spec: Mapping[str, Any], bare: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that `bare` describes: this one changed or, where it must be, built anew."""
    if any(bare[part] != spec[part] for part in ("normalizer", "pre_tokenizer", "model")):
        return Tokenizer.from_str(json.dumps(bare))
    tokenizer.post_processor = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _made_native(made: Tokenizer, spec: Mapping[str, Any], bare: Mapping[str, Any]) -> Tokenizer:
    """Return the bare tokenizer with the prepended space; itself where there is none."""
    prepending = {part: spec[part] for part in ("normalizer", "pre_tokenizer")}
    if all(bare[part] == value for part, value in prepending.items()):
        return made
    return Tokenizer.from_str(json.dumps({**bare, **prepending}))


def _without_prepended_space(part: Any) -> Any:
    """Return a normalizer or pre-tokenizer without what it puts in front of a text; None if that is all."""
    if part is None or part["type"] == "Prepend":
        return None
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            members = [m for m in map(_without_prepended_space, part[key]) if m is not None]
            return dict(part, **{key: members}) if members else None
    if part["type"] == "Metaspace":
        return dict(part, prepend_scheme="never")
    if part["type"] == "ByteLevel" and "add_prefix_space" in part:
        return dict(part, add_prefix_space=False)
    return part


def _fingerprint(spelled: Mapping[int, tuple[TokenKind, bytes]], spec: Mapping[str, Any]) -> str:
    """Hash all that decides which tokens a text without control tokens becomes, and what they stand for.

    Settings of the model at an empty default are left out, so that a later tokenizers library that adds one
    changes nothing.

    Args:
        spelled: The kinds and bytes of text tokens by id.
        spec: What describes the bare tokenizer.
    """
    digest = hashlib.sha256()

    def add(label: str, data: bytes) -> None:
        digest.update(f"{label} {len(data)}\n".encode())
        digest.update(data)

    def compact(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    model = {k: v for k, v in spec["model"].items() if v not in (None, False, "") and k not in ("vocab", "merges")}
    vocab = spec["model"]["vocab"]
    special = {entry["id"] for entry in spec["added_tokens"] if entry["special"]}
    # Scores to six digits: reading a tokenizer.json back can move the last of a Unigram's seventeen.
    entries = (
        [(i, token, "") for token, i in vocab.items()]
        if isinstance(vocab, dict)
        else [(i, token, f"{score:.6g}") for i, (token, score) in enumerate(vocab)]
    )
    ids = sorted(spelled)
    add("ids", np.array(ids, "<i8").tobytes())
    add("lengths", np.array([len(spelled[i][1]) for i in ids], "<i8").tobytes())
    add("bytes", b"".join(spelled[i][1] for i in ids))
    add("kinds", bytes(spelled[i][0] for i in ids))
    add("model", compact(model))
    add("vocab", compact(sorted(e for e in entries if e[0] not in special and not is_unused_name(e[1]))))
    add("merges", compact(spec["model"].get("merges", [])))
    add("added", compact([entry for entry in spec["added_tokens"] if not entry["special"]]))
    add("normalizer", compact(spec["normalizer"]))
    add("pre_tokenizer", compact(spec["pre_tokenizer"]))
    return digest.hexdigest()


def _fetch(hub_id: str) -> dict[str, Path]:
    """Fetch a hub repository's small JSON files into the hub's own cache, those that it has."""
    reached = reach_repository(hub_id)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    absent = RemoteEntryNotFoundError if reached else LocalEntryNotFoundError
    download: Callable[..., str] = huggingface_hub.hf_hub_download
    files: dict[str, Path] = {}
    for name in _FOLDER_FILES:
        if name in ("tiktoken.model", "tokenizer.model") and {"tokenizer.json", "tekken.json"} & set(files):
            continue  # large, and not read then
        try:
            files[name] = Path(download(hub_id, name, local_files_only=not reached))
        except absent:
            continue
        except Exception as error:  # no permission, a connection that breaks: the hub raises many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise VocabridgeError(f"{hub_id}: the hub does not let us read {name} ({reason}); try again.") from error
    if not any(name in files for name in _TOKENIZERS):
        lacks = "has no tokenizer.json" if reached else "cannot be reached now, and its tokenizer.json is not here"
        raise VocabridgeError(f"{hub_id}: this repository {lacks}.")
    return files
