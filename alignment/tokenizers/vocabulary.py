"""The byte view of a tokenizer: the bytes that every id stands for, and the places where a text's tokens start.

A `Vocabulary` is as wide as the model's logits, which may differ from the tokenizer's length and from its highest id
plus one. A model may have more rows than the tokenizer has tokens, and the tokenizer may skip ids; both kinds of ids
are UNUSED. Ids of the tokenizer that the model has no row for are dropped.

Two vocabularies can agree in three ways: they make the same tokens of any text (`fingerprint`), their control tokens
have the same roles (`control_roles`), and they have the same number of rows (`size`).
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vocabridge.alignment.arrays import Int8
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.bare import bare_spec, bare_tokenizer, native_tokenizer
from vocabridge.alignment.tokenizers.byteview import Spelling, is_unused_name
from vocabridge.alignment.tokenizers.changes import text_changes
from vocabridge.alignment.tokenizers.chat import chat_roles
from vocabridge.alignment.tokenizers.fingerprint import fingerprint_of
from vocabridge.alignment.tokenizers.ids import check_distinct_ids, check_ids
from vocabridge.alignment.tokenizers.loading import LoadedTokenizer, load_tokenizer
from vocabridge.alignment.tokenizers.panics import panics_as_errors
from vocabridge.alignment.tokenizers.segmentation import Segmentation
from vocabridge.alignment.tokenizers.settings import ROLES, chosen_template
from vocabridge.alignment.tokenizers.template_renderer import TemplateError, render
from vocabridge.alignment.tokenizers.tokens import WIDEST, TokenKind
from vocabridge.alignment.tokenizers.unknown import unk_id, with_unk

logger = logging.getLogger("vocabridge")


@dataclass(frozen=True, eq=False)
class Vocabulary(Segmentation):
    """An immutable byte view of one tokenizer, as wide as its model's logits.

    Attributes:
        add_bos_token: Whether the model expects the bos token in front of every text.
        fingerprint: Hex SHA-256 of the ids and bytes of text tokens and of everything that decides how text is cut. It
            does not depend on width, roles, control tokens and chat template.
        template: The chat template; None if there is none.
    """

    add_bos_token: bool
    fingerprint: str
    template: str | None = field(default=None, repr=False)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Any,
        *,
        size: int | None = None,
        name: str | None = None,
        roles: Mapping[str, int] | None = None,
        add_bos_token: bool | None = None,
    ) -> Vocabulary:
        """Take the byte view of a `tokenizers.Tokenizer` or of a fast tokenizer of transformers.

        Args:
            tokenizer: The tokenizer; it is copied, not changed.
            size: The model's logit width; by default the highest id plus one.
            name: The name for people; by default that of the tokenizer.
            roles: Role -> id; by default the roles that a transformers tokenizer names, and those of its chat template.
            add_bos_token: Whether the model expects the bos token in front of every text; by default, whether the
                tokenizer's post-processor adds it.

        Raises:
            VocabridgeError: The tokenizer is not a fast tokenizer, or the id of a role is not below `size`.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise VocabridgeError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; load one that has a tokenizer.json"
            )
        _check_size(size)
        template = chosen_template(getattr(tokenizer, "chat_template", None))
        template_for_roles = template if roles is None else None
        if roles is None:
            named = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
            roles = {role: i for role, i in named.items() if i is not None and i >= 0}
        name = name or str(getattr(tokenizer, "name_or_path", "") or "tokenizer")
        check_ids(name, backend.get_vocab().values())
        check_distinct_ids(name, backend)
        copy = Tokenizer.from_str(backend.to_str())
        loaded = LoadedTokenizer(copy, name, size, roles, add_bos_token, template=template_for_roles)
        return replace(cls._view(loaded), template=template)

    @classmethod
    def load(cls, source: str | Path, *, size: int | None = None) -> Vocabulary:
        """Load the byte view of a tokenizer.json, a tekken.json, a model's folder, a GGUF file or a hub id.

        In a folder, tokenizer.json, tekken.json or tiktoken.model holds the tokenizer, config.json sets the logit
        width, and tokenizer_config.json and the chat template set the roles.

        Args:
            source: The path, or a hub id such as "google/gemma-3-270m", of which only the tokenizer's files are
                fetched.
            size: The model's logit width, if the source lacks it or has a wrong one.

        Raises:
            VocabridgeError: The source is missing or unreadable, or holds no fast tokenizer.
        """
        _check_size(size)
        return cls._view(load_tokenizer(source, size))

    @classmethod
    def _view(cls, loaded: LoadedTokenizer) -> Vocabulary:
        """Take the view of a loaded tokenizer."""
        tokenizer, name, template = loaded.tokenizer, loaded.name, loaded.template
        spec = json.loads(tokenizer.to_str())
        tokens = _tokens(spec["model"]) if loaded.tokens is None else loaded.tokens
        added = tokenizer.get_added_tokens_decoder() if loaded.added is None else loaded.added
        size = loaded.size
        if size is None:
            size = 1 + max((*added, *(i for i, _ in tokens)), default=-1)
        if not 0 < size <= WIDEST:
            remedy = (
                "load a tokenizer that has tokens" if loaded.size is None else "correct vocab_size in its config.json"
            )
            raise VocabridgeError(f"{name}: a vocabulary of {size} ids cannot be; {remedy}")
        encoding = with_unk(spec, size)
        if encoding is not spec:
            tokenizer = Tokenizer.from_str(json.dumps(encoding))
        unknown = unk_id(spec)
        roles = _possible_roles(loaded.roles, unknown, size, name)
        if (pad := loaded.roles.get("pad", 0)) >= size and tokenizer.id_to_token(pad) is None:
            logger.warning("%s: there is no token with its pad_token_id, %d; correct its config.json.", name, pad)
        view = _ByteView(Spelling.of(spec), size, loaded.unused, unknown, roles)
        for i, token in tokens:
            view.put(i, token, view.spelling.token_bytes(token), special=False)
        for i, entry in added.items():
            view.put(i, entry.content, view.spelling.added_bytes(entry.content), special=entry.special)
        lengths = np.fromiter((len(b or b"") for b in view.token_bytes), np.int32, size)
        view.kinds.flags.writeable = lengths.flags.writeable = False

        if template is not None:
            control = set(np.flatnonzero(view.kinds == TokenKind.CONTROL).tolist())
            roles |= _chat_roles(template, tokenizer, roles, control, name)

        with panics_as_errors(name):
            adds_bos = "bos" in roles and (loaded.add_bos_token or tokenizer.encode("a").ids[:1] == [roles["bos"]])
        return cls(
            name=name,
            size=size,
            token_bytes=tuple(view.token_bytes),
            kinds=view.kinds,
            lengths=lengths,
            roles=roles,
            add_bos_token=adds_bos if loaded.add_bos_token is None else loaded.add_bos_token and "bos" in roles,
            fingerprint=fingerprint_of(view.spelled, bare_spec(spec)),
            tokenizer=(bare := bare_tokenizer(tokenizer, encoding, bare_spec(encoding))),
            native=native_tokenizer(bare, encoding, bare_spec(encoding)),
            template=template,
        )

    @functools.cached_property
    def changes(self) -> tuple[str, ...]:
        """The changes that the tokenizer makes to a text before it cuts it; see `text_changes`."""
        with panics_as_errors(self.name):
            return text_changes(self.tokenizer)

    def resized(self, size: int) -> Vocabulary:
        """Return the vocabulary with another number of rows: unused rows are added at the end, or the last are cut.

        If control tokens are cut, their roles are removed, and so is a chat template that contains their names.

        Raises:
            VocabridgeError: A token that stands for text would be cut.
        """
        if size == self.size:
            return self
        if size <= (last := int(self.usable.max(initial=-1))):
            raise VocabridgeError(f"{self.name} cannot be cut to {size} ids, as id {last} stands for text")
        new_rows = max(0, size - self.size)
        kinds = np.concatenate((self.kinds[:size], np.full(new_rows, TokenKind.UNUSED, np.int8)))
        lengths = np.concatenate((self.lengths[:size], np.zeros(new_rows, np.int32)))
        kinds.flags.writeable = lengths.flags.writeable = False
        cut_names = [
            self.tokenizer.id_to_token(i) or ""
            for i in (np.flatnonzero(self.kinds[size:] == TokenKind.CONTROL) + size).tolist()
        ]
        template_needs_cut = self.template is not None and any(name and name in self.template for name in cut_names)
        roles = {role: i for role, i in self.roles.items() if i < size}
        return replace(
            self,
            size=size,
            token_bytes=(*self.token_bytes[:size], *[None] * new_rows),
            kinds=kinds,
            lengths=lengths,
            roles=roles,
            add_bos_token=self.add_bos_token and "bos" in roles,
            template=None if template_needs_cut else self.template,
        )

    @property
    def bos_ids(self) -> list[int]:
        """The ids in front of every text: the bos token if the model expects it, else none."""
        return [self.roles["bos"]] if self.add_bos_token else []

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation with the tokenizer's chat template.

        Args:
            messages: The messages, each with "role" and "content".
            add_generation_prompt: Whether the text ends with the beginning of an assistant's message.

        Raises:
            VocabridgeError: There is no chat template, or it cannot render these messages.
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
                f"the chat template of {self.name} cannot render these messages ({error}); give a list of messages, "
                'each with "role" and "content"'
            ) from error


class _ByteView:
    """The kinds and bytes of a tokenizer's ids, filled id by id.

    Attributes:
        spelling: The rule that turns a token into bytes.
        token_bytes: The `token_bytes` of the `Vocabulary`.
        kinds: The `kinds` of the `Vocabulary`.
        spelled: Id -> kind and bytes of text tokens, which depend on the tokenizer alone and not on roles.
    """

    def __init__(
        self, spelling: Spelling, size: int, unused: frozenset[int], unknown: int | None, roles: Mapping[str, int]
    ) -> None:
        self.spelling = spelling
        self.token_bytes: list[bytes | None] = [None] * size
        self.kinds: Int8 = np.full(size, TokenKind.UNUSED, np.int8)
        self.spelled: dict[int, tuple[TokenKind, bytes]] = {}
        self._unused = unused
        self._unknown = unknown
        self._control = {unknown, *(roles[role] for role in ("bos", "eos", "unk") if role in roles)}

    def put(self, i: int, token: str, data: bytes, special: bool) -> None:
        """Set the kind and bytes of an id; ignore an id that stands for nothing or that the model has no row for."""
        if i >= len(self.kinds) or i in self._unused or not data or is_unused_name(token):
            return
        self.spelled.pop(i, None)
        if not special and i != self._unknown:
            kind = TokenKind.BYTE if self.spelling.is_byte_token(token, data) else TokenKind.TEXT
            self.spelled[i] = kind, data
        if special or i in self._control:
            self.kinds[i], self.token_bytes[i] = TokenKind.CONTROL, None
        else:
            self.kinds[i], self.token_bytes[i] = self.spelled[i]


def _check_size(size: int | None) -> None:
    """Raise an error for a number of ids that no model has."""
    if size is not None and not 0 < size <= WIDEST:
        raise VocabridgeError(f"a vocabulary of {size} ids cannot be; give a size from 1 to {WIDEST}")


def _possible_roles(given: Mapping[str, int], unknown: int | None, size: int, name: str) -> dict[str, int]:
    """Return the given roles and that of the unknown token, without a pad token that the model has no row for.

    Raises:
        VocabridgeError: The model has no row for the token of another role.
    """
    roles = dict(given) if unknown is None else {"unk": unknown} | dict(given)
    if roles.get("pad", 0) >= size:  # added to the tokenizer only for batches
        del roles["pad"]
    for role, i in roles.items():
        if not 0 <= i < size:
            raise VocabridgeError(
                f"{name}: the {role} token has id {i}, but the vocabulary has {size} ids; correct "
                f"{role}_token_id or vocab_size in its config.json, or use the config.json "
                "of the model that the tokenizer belongs to"
            )
    return roles


def _chat_roles(
    template: str, tokenizer: Tokenizer, roles: Mapping[str, int], control: set[int], name: str
) -> dict[str, int]:
    """Return the roles of a chat template; if it cannot be rendered, log a warning and return none."""
    unknown = roles.get("unk")

    def controls(text: str) -> list[int]:
        with panics_as_errors(name):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [i for i in ids if i in control and i != unknown]

    try:
        return chat_roles(template, _named_tokens(tokenizer, roles), controls)
    except TemplateError as error:
        logger.warning("%s: its chat template cannot be rendered (%s), so it gives no roles.", name, error)
        return {}


def _named_tokens(tokenizer: Tokenizer, roles: Mapping[str, int]) -> dict[str, str]:
    """Return the variables of a chat template, such as bos_token; "" for a role without a token."""
    ids = {f"{role}_token": roles.get(role) for role in ROLES}
    return {variable: "" if i is None else tokenizer.id_to_token(i) or "" for variable, i in ids.items()}


def _tokens(model: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the ids of a model's vocabulary with their spellings; in a Unigram several ids may share a spelling."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        return sorted((i, token) for token, i in vocab.items())
    return [(i, token) for i, (token, _) in enumerate(vocab)]
