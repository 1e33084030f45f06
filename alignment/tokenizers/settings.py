"""Reading a tokenizer's settings from the files beside tokenizer.json: config.json, tokenizer_config.json and others.

The files may be malformed, so a value of a wrong JSON type raises an error that names the file and the key. A missing
key, null and, for ids, a negative number mean that a setting has no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.jsonio import json_type, read_json

ROLES = ("bos", "eos", "pad", "unk")
"""The roles of control tokens by the names that transformers uses in settings such as `bos_token`, `eos_token_id`."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings of a tokenizer.

    Attributes:
        tokens: Role -> spelling of its token.
        ids: Role -> id of its token; some roles are in `tokens` only, others in `ids` only.
        width: The model's logit width; None if it is not set.
        add_bos_token: True if the settings put a bos token in front of every text; None otherwise.
        template: The chat template; None if there is none.
        classes: The names of the tokenizer's Python classes.
        added_tokens: Id -> spelling, for the tokens that tokenizer_config.json lists.
    """

    tokens: Mapping[str, str]
    ids: Mapping[str, int]
    width: int | None
    add_bos_token: bool | None
    template: str | None
    classes: tuple[str, ...]
    added_tokens: Mapping[int, str]

    @classmethod
    def read(cls, files: Mapping[str, Path]) -> TokenizerSettings:
        """Read the settings.

        Args:
            files: File name -> path, for the files that exist.

        Raises:
            VocabridgeError: A file cannot be read, or a value has a wrong type.
        """
        settings, special, config = (
            _Object.read(files.get(name))
            for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json")
        )
        inner = config.object("text_config")
        for part in (config, inner):
            part.string("model_type")
        spelled = {role: settings.token(f"{role}_token") or special.token(f"{role}_token") for role in ROLES}
        ids = {role: inner.id(f"{role}_token_id", config.id(f"{role}_token_id")) for role in ROLES}
        template = _read_text(files.get("chat_template.jinja"))
        return cls(
            tokens={role: token for role, token in spelled.items() if token},
            ids={role: i for role, i in ids.items() if i is not None},
            width=inner.number("vocab_size", config.number("vocab_size")),
            add_bos_token=True if settings.flag("add_bos_token") else None,
            template=template or settings.template("chat_template"),
            classes=settings.classes(),
            added_tokens=settings.added_tokens("added_tokens_decoder"),
        )


@dataclass(frozen=True)
class _Object:
    """A JSON object with the path of its file; the methods raise an error for a value of a wrong type."""

    path: Path | None
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path | None) -> _Object:
        """Read the object in a file; return an empty one if there is no such file."""
        if path is None or not path.is_file():
            return cls(path, {})
        try:
            value = read_json(path)
        except (OSError, ValueError) as error:
            raise VocabridgeError(f"{path}: not readable as JSON ({error}); download it again") from error
        if not isinstance(value, dict):
            raise VocabridgeError(f"{path}: it holds {json_type(value)}; it must be an object, so download it again")
        return cls(path, value)

    def object(self, key: str) -> _Object:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self._wrong(key, "an object")
        return _Object(self.path, value or {})

    def number(self, key: str, default: int | None = None) -> int | None:
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(key, "a whole number")
        return int(value)

    def id(self, key: str, default: int | None = None) -> int | None:
        """Return an id; of several (end tokens) the first, which is the tokenizer's own."""
        value = self.values.get(key)
        if isinstance(value, list):
            if not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
                self._wrong(key, "a whole number or a list of them")
            number = value[0] if value else None
        else:
            number = self.number(key, default)
        return None if number is None or number < 0 else number

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self._wrong(key, "true or false")
        return bool(value)

    def token(self, key: str) -> str:
        """Return a token's spelling, which may be the value itself or in an object under "content"; "" for none."""
        value = self.values.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and value is not False and not isinstance(value, str):
            self._wrong(key, "a string, or an object whose content is a string")
        return value or ""

    def string(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            self._wrong(key, "a string")
        return value

    def classes(self) -> tuple[str, ...]:
        """Return the class names under tokenizer_class, and under AutoTokenizer in auto_map (one, or slow and fast)."""
        auto = self.object("auto_map").values.get("AutoTokenizer")
        names = [self.string("tokenizer_class"), *(auto if isinstance(auto, list) else [auto])]
        return tuple(name.rpartition("--")[2] for name in names if isinstance(name, str))

    def added_tokens(self, key: str) -> dict[int, str]:
        """Return id -> spelling of an object whose keys are ids and whose values are objects with a "content"."""
        entries = self.object(key).values
        if not all(i.isdecimal() and isinstance(entry, dict) for i, entry in entries.items()):
            self._wrong(key, "an object of ids and tokens")
        return {int(i): _Object(self.path, entry).token("content") for i, entry in entries.items()}

    def template(self, key: str) -> str | None:
        value = self.values.get(key)
        by_name = {entry.get("name"): entry.get("template") for entry in _named_objects(value)}
        texts = list(by_name.values()) if isinstance(value, list) else [value]
        if value is not None and not (isinstance(value, dict) or all(isinstance(text, str) for text in texts)):
            self._wrong(key, "a string, or a list of objects with a name and a template each")
        return chosen_template(value)

    def _wrong(self, key: str, expected: str) -> None:
        shown = repr(self.values[key])
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise VocabridgeError(
            f"{self.path}: {key} is {shown} where {expected} is expected; correct it or download the file again"
        )


def _named_objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list that have a string as their name."""
    entries = value if isinstance(value, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def chosen_template(setting: Any) -> str | None:
    """Return the chat template of a tokenizer's settings: the only one, or the one named "default" of several."""
    if isinstance(setting, list):  # in tokenizer_config.json
        setting = {entry["name"]: entry.get("template") for entry in _named_objects(setting)}
    if isinstance(setting, dict):
        setting = setting.get("default")
    return setting if isinstance(setting, str) else None


def _read_text(path: Path | None) -> str | None:
    """Read the text of a file; return None if there is no such file."""
    if path is None or not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise VocabridgeError(f"{path}: not readable as UTF-8 text ({error}); download it again") from error
