"""Loading a tokenizer and its settings from a file, a folder, a GGUF file or the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer

from vocabridge.alignment.errors import VocabridgeError, refuse_empty
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
"""Files that hold a tokenizer, in the order of precedence."""

_FOLDER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "chat_template.jinja",
    *_TOKENIZERS,
)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer with the settings of the files beside it.

    Attributes:
        tokenizer: The tokenizer as it is in its file; the byte view may change it.
        name: The name of its source, for people.
        size: The model's logit width; None stands for the highest id plus one.
        roles: Role -> id of its token.
        add_bos_token: Whether the model expects the bos token in front of every text; None if only the tokenizer shows
            it.
        unused: Ids that stand for nothing, whatever their spelling.
        tokens: The ids and spellings of the model's vocabulary, if several ids may share a spelling, which the
            tokenizer's map from spelling to id cannot express. None stands for the tokenizer's own.
        added: Id -> added token, for the same reason. None stands for the tokenizer's own.
        template: The chat template; None if there is none.
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
    refuse_empty(source, "tokenizer")
    path = Path(source)
    if path.is_dir():
        return _from_folder({n: path / n for n in _FOLDER_FILES if (path / n).is_file()}, str(path), size)
    if path.is_file():
        check_downloads(path)
    if path.suffix == ".gguf" and path.is_file():
        gguf = read_gguf_tokenizer(path)
        unused = frozenset(np.flatnonzero(gguf.token_types == GGUF_UNUSED).tolist())
        return LoadedTokenizer(
            tokenizer=gguf.tokenizer,
            size=size or gguf.size,
            name=str(path),
            roles=gguf.roles,
            add_bos_token=gguf.add_bos_token,
            unused=unused,
            tokens=list(enumerate(gguf.tokens)),
            added=gguf.added,
            template=gguf.chat_template,
        )
    if path.suffix in (".tiktoken", ".model") and path.is_file():
        refuse_sentencepiece(path)
        raise VocabridgeError(
            f"{path}: such a file does not say how text is cut into words; name the model's tokenizer.json, or make a "
            "tokenizer of it and a pattern with `alignment.tiktoken_tokenizer` for `Vocabulary.from_tokenizer`"
        )
    if path.is_file() and "tekken" in path.name:
        return _from_tekken(path, str(path), size)
    if path.exists():
        return _from_files({"tokenizer.json": plain_file(path)}, str(path), size)
    return _from_folder(_fetch(str(source)), str(source), size)


def _from_folder(files: Mapping[str, Path], name: str, size: int | None) -> LoadedTokenizer:
    """Read the tokenizer of a folder: tekken.json, else tokenizer.json, else tiktoken.model.

    tekken.json comes first because Mistral's tokenizer.json is a conversion of it that cuts some words differently.
    """
    for file in files.values():
        check_downloads(file)
    if "tekken.json" in files:
        if "tokenizer.json" in files:
            logger.warning("%s: its tekken.json is read, not the tokenizer.json that was converted from it.", name)
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
        "save_pretrained"
    )


def _from_tekken(path: Path, name: str, size: int | None, template: str | None = None) -> LoadedTokenizer:
    """Read a tekken.json; Mistral's models expect the bos token in front of every text."""
    tekken = read_tekken(path)
    return LoadedTokenizer(
        tokenizer=tekken.tokenizer,
        size=size or tekken.size,
        name=name,
        roles=tekken.roles,
        add_bos_token=True,
        template=template,
    )


def _from_files(files: Mapping[str, Path], name: str, size: int | None) -> LoadedTokenizer:
    """Read tokenizer.json, and the files beside it that set logit width, roles and the bos token."""
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
        raise VocabridgeError(f"{path}: not a tokenizer.json ({error}); download it again") from error
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
    """Fetch the tokenizer's files of a hub repository, as far as it has them, into the hub's own cache."""
    reached = reach_repository(hub_id)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    absent = RemoteEntryNotFoundError if reached else LocalEntryNotFoundError
    download: Callable[..., str] = huggingface_hub.hf_hub_download
    files: dict[str, Path] = {}
    for name in _FOLDER_FILES:
        if name in ("tiktoken.model", "tokenizer.model") and {"tokenizer.json", "tekken.json"} & set(files):
            continue  # large, and not read if there is one of the others
        try:
            files[name] = Path(download(hub_id, name, local_files_only=not reached))
        except absent:
            continue
        except Exception as error:  # the hub raises many kinds, for missing permissions, broken connections and so on
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise VocabridgeError(f"{hub_id}: cannot download {name} from the hub ({reason}); try again") from error
    if not any(name in files for name in _TOKENIZERS):
        problem = "has no tokenizer.json" if reached else "cannot be reached now, and its tokenizer.json is not cached"
        raise VocabridgeError(f"{hub_id}: this repository {problem}")
    return files
