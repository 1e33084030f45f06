"""Reading a tokenizer with what its files say about it: from a file, a folder, a GGUF file or the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.hub import reach_repository
from vocabridge.alignment.inputs import plain_file, refuse_gzip
from vocabridge.alignment.tokenizers.downloads import check_downloads
from vocabridge.alignment.tokenizers.gguf import UNUSED as GGUF_UNUSED
from vocabridge.alignment.tokenizers.gguf import read_gguf_tokenizer
from vocabridge.alignment.tokenizers.ids import check_distinct_ids, check_json_ids
from vocabridge.alignment.tokenizers.panics import panics_as_errors
from vocabridge.alignment.tokenizers.settings import TokenizerSettings
from vocabridge.alignment.tokenizers.tiktoken import read_tekken, refuse_sentencepiece
from vocabridge.alignment.tokenizers.tiktoken_folder import read_tiktoken_folder

logger = logging.getLogger("vocabridge")

_TOKENIZERS = ("tekken.json", "tokenizer.json", "tiktoken.model", "tokenizer.model")
"""Files that hold a tokenizer; a folder is read by the first that it has."""

_FOLDER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "chat_template.jinja",
    *_TOKENIZERS,
)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, ours to change, with what its files say about it.

    Attributes:
        tokenizer: The tokenizer as it is in its file.
        name: Where it came from, for people only.
        size: The model's logit width; None: the highest id plus one.
        roles: A role -> id each.
        add_bos_token: Whether the model expects the bos token in front of every text; None: whether the tokenizer
            puts it there.
        unused: Ids that stand for nothing, whatever their spelling.
        tokens: The ids of the model's vocabulary with their spellings, where several ids may have one spelling: the
            tokenizer's own map from spelling to id has one id for each. None: those of the tokenizer.
        added: The added tokens by id, for the same reason. None: those of the tokenizer.
        template: Its chat template, None if it has none.
    """

    tokenizer: Tokenizer
    name: str
    size: int | None
    roles: Mapping[str, int]
    add_bos_token: bool | None
    unused: frozenset[int] = frozenset()
    tokens: Sequence[tuple[int, str]] | None = None
    added: Mapping[int, AddedToken] | None = None
    template: str | None = None


def load_tokenizer(source: str | Path, size: int | None) -> LoadedTokenizer:
    """Load a tokenizer for its byte view; arguments and errors are those of `Vocabulary.load`."""
    path = Path(source)
    if path.is_dir():
        return _from_folder({n: path / n for n in _FOLDER_FILES if (path / n).is_file()}, str(path), size)
    if path.is_file():
        check_downloads(path)
    if path.suffix == ".gguf" and path.is_file():
        read = read_gguf_tokenizer(path)
        unused = frozenset(np.flatnonzero(read.token_types == GGUF_UNUSED).tolist())
        return LoadedTokenizer(
            tokenizer=read.tokenizer,
            size=size or read.size,
            name=str(path),
            roles=read.roles,
            add_bos_token=read.add_bos_token,
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
        return _from_tekken(path, str(path), size)
    if path.exists():
        return _from_files({"tokenizer.json": plain_file(path)}, str(path), size)
    return _from_folder(_fetch(str(source)), str(source), size)


def _from_folder(files: Mapping[str, Path], name: str, size: int | None) -> LoadedTokenizer:
    """Read what a folder holds: tekken.json, else tokenizer.json, else tiktoken.model.

    Mistral's tokenizer.json is a conversion of its tekken.json that cuts some words otherwise.
    """
    for file in files.values():
        check_downloads(file)
    if "tekken.json" in files:
        if "tokenizer.json" in files:
            logger.warning("%s: its tekken.json is read, not the tokenizer.json that was made of it.", name)
        settings = TokenizerSettings.read(files)
        return _from_tekken(files["tekken.json"], name, size or settings.width, settings.template)
    if "tokenizer.json" in files:
        return _from_files(files, name, size)
    if "tiktoken.model" in files:
        settings = TokenizerSettings.read(files)
        return _with_settings(read_tiktoken_folder(files["tiktoken.model"], settings), settings, name, size)
    if "tokenizer.model" in files:
        refuse_sentencepiece(files["tokenizer.model"])
    raise VocabridgeError(
        f"{Path(name) / 'tokenizer.json'}: no such file; save the fast tokenizer there, with transformers' "
        "save_pretrained."
    )


def _from_tekken(path: Path, name: str, size: int | None, template: str | None = None) -> LoadedTokenizer:
    """Read a tekken.json; Mistral's models expect the bos token."""
    read = read_tekken(path)
    return LoadedTokenizer(
        tokenizer=read.tokenizer,
        size=size or read.size,
        name=name,
        roles=read.roles,
        add_bos_token=True,
        template=template,
    )


def _from_files(files: Mapping[str, Path], name: str, size: int | None) -> LoadedTokenizer:
    """Read tokenizer.json and what its companions say about width, roles and the bos token."""
    path = files["tokenizer.json"]
    refuse_gzip(path)
    try:
        with panics_as_errors(str(path)):
            text = path.read_text(encoding="utf-8-sig")
            check_json_ids(str(path), text)
            tokenizer = Tokenizer.from_str(text)
            check_distinct_ids(str(path), tokenizer)
    except VocabridgeError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for every malformed file
        raise VocabridgeError(f"{path}: not a tokenizer.json ({error}); download it again.") from error
    return _with_settings(tokenizer, TokenizerSettings.read(files), name, size)


def _with_settings(tokenizer: Tokenizer, settings: TokenizerSettings, name: str, size: int | None) -> LoadedTokenizer:
    spelled = {role: tokenizer.token_to_id(token) for role, token in settings.tokens.items()}
    return LoadedTokenizer(
        tokenizer=tokenizer,
        size=size or settings.width,
        name=name,
        roles={role: i for role, i in {**settings.ids, **spelled}.items() if i is not None},
        add_bos_token=settings.add_bos_token,
        template=settings.template,
    )


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
