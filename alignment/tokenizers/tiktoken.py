r"""Fast tokenizers from tiktoken's ranks, which are byte strings in the order in which they are merged.

tiktoken repeatedly merges the two neighbors whose joined bytes have the lowest rank. A BPE with merges does the same if
*every* cut of a token into two tokens is a merge, and all cuts of a token have its rank (transformers'
`TikTokenConverter` recovers merges in this way). The ranks lack the pattern that cuts text into words and the special
tokens, so callers give both. Mistral's tekken.json holds all three.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.inputs import refuse_gzip
from vocabridge.alignment.jsonio import read_json
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet
from vocabridge.alignment.tokenizers.ids import check_ids

_SPELLING = {byte: character for character, byte in byte_level_alphabet().items()}

_TEKKEN_ROLES = {"<s>": "bos", "</s>": "eos", "<pad>": "pad", "<unk>": "unk"}

# The first special tokens of tekken.json files without a list of them: https://github.com/mistralai/mistral-common
_TEKKEN_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip

_PATTERN_PART = re.compile(
    r"(?P<atom>\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\()\[\]{}|*+?$])?(?P<interval>\{\d+(?:,\d*)?\})\+"
    r"|(?P<kept>\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\])"
    r"|(?P<end>\$)",
    re.DOTALL,
)


@dataclass(frozen=True)
class TekkenTokenizer:
    """The tokenizer of a tekken.json.

    Attributes:
        tokenizer: A fast tokenizer that cuts text as Mistral's own does.
        size: The logit width.
        roles: "bos", "eos", "pad", "unk" -> id.
    """

    tokenizer: Tokenizer
    size: int
    roles: Mapping[str, int]


def tiktoken_tokenizer(ranks: Mapping[bytes, int], pattern: str, special_tokens: Mapping[str, int]) -> Tokenizer:
    """Make a fast tokenizer that encodes as tiktoken does.

    Args:
        ranks: Byte string -> id, including all 256 single bytes; lower ids are merged earlier.
        pattern: The regular expression whose matches are encoded one by one (tiktoken's `pat_str`).
        special_tokens: Text -> id of the special tokens; not all ids need to be used.

    Raises:
        VocabridgeError: A single byte has no rank, a special token has the spelling or the id of another token, the
            pattern cannot be translated, or an id is too large.
    """
    check_ids("The ranks or special tokens", (*ranks.values(), *special_tokens.values()))
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise VocabridgeError(f"the byte 0x{missing[0]:02X} has no rank; give the ranks of a complete tiktoken file")
    ordered = sorted(ranks, key=ranks.__getitem__)
    spelled = {data: _spell(data) for data in ordered}
    vocab = {spelled[data]: ranks[data] for data in ordered}
    taken = set(ranks.values())
    for content, i in special_tokens.items():
        if content in vocab or i in taken:
            raise VocabridgeError(
                f"the special token {content!r} (id {i}) has the spelling or id of another token; give it its own"
            )
        vocab[content] = i
        taken.add(i)
    # Like tiktoken, look up the complete word before merging.
    model = models.BPE(vocab=vocab, merges=_merges(ranks, ordered, spelled), ignore_merges=True)
    tokenizer = Tokenizer(model)
    try:
        split = pre_tokenizers.Split(Regex(translated(pattern)), "isolated")
    except Exception as error:  # tokenizers raises bare Exception
        raise VocabridgeError(f"the pattern {pattern!r} cannot be used ({error}); check it") from error
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in special_tokens])
    return tokenizer


def read_tiktoken(path: str | Path) -> dict[bytes, int]:
    """Read the ranks of a .tiktoken file (the `tokenizer.model` of Llama-3 and Llama-4 is such a file, too).

    Each line is a byte string in base64, a space, and its rank.

    Raises:
        VocabridgeError: The file cannot be read, a line has another form, or two lines have the same byte string or
            the same rank.
    """
    path = Path(path)
    refuse_gzip(path)
    refuse_sentencepiece(path)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise VocabridgeError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                data, rank = line.split()
                pairs.append((base64.b64decode(data, validate=True), int(rank)))
            except ValueError as error:  # includes binascii.Error
                raise VocabridgeError(
                    f"{path}: line {number} is no base64 string with a rank; name a file in tiktoken's format"
                ) from error
    try:
        return _one_to_one(pairs)
    except ValueError as error:
        raise VocabridgeError(f"{path}: {error}; download it again") from error


def refuse_sentencepiece(path: Path) -> None:
    """Raise an error for a SentencePiece model, which often has the name of a tiktoken file.

    Raises:
        VocabridgeError: The file is a SentencePiece model.
    """
    try:
        with path.open("rb") as file:
            start = file.read(3)
    except OSError:
        return  # reading the file raises the error
    # The file is a Protocol Buffers message that begins with a piece, and a piece begins with its text.
    if start[:1] == b"\n" and start[2:] == b"\n":
        raise VocabridgeError(
            f"{path}: a SentencePiece model; give a tokenizer.json, which transformers converts it to with "
            f"AutoTokenizer.from_pretrained({str(path.parent)!r}).save_pretrained({str(path.parent)!r})"
        )


def read_tekken(path: str | Path) -> TekkenTokenizer:
    """Read Mistral's tekken.json.

    Raises:
        VocabridgeError: The file cannot be read or is no tekken.json.
    """
    path = Path(path)
    try:
        return _tekken(read_json(path))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise VocabridgeError(f"{path}: not a readable tekken.json ({error!r}); download it again") from error
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from error


def _tekken(document: Mapping[str, Any]) -> TekkenTokenizer:
    """Build the tokenizer: ids of special tokens come first, then as many of the ranks as the model has rows for."""
    config = document["config"]
    size, reserved = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
    check_ids("default_vocab_size or default_num_special_tokens", (size, reserved))
    if size <= 0:
        raise ValueError(f"default_vocab_size is {size}")
    listed = document.get("special_tokens")
    names = {t["token_str"]: int(t["rank"]) for t in listed} if listed else _numbered(_TEKKEN_SPECIAL)
    used = set(names.values())
    special = names | {f"<SPECIAL_{i}>": i for i in range(reserved) if i not in used}
    ranks = _one_to_one((base64.b64decode(entry["token_bytes"]), int(entry["rank"])) for entry in document["vocab"])
    kept = {data: rank + reserved for data, rank in ranks.items() if rank + reserved < size}
    tokenizer = tiktoken_tokenizer(kept, config["pattern"], special)
    return TekkenTokenizer(
        tokenizer=tokenizer,
        size=size,
        roles={role: special[content] for content, role in _TEKKEN_ROLES.items() if content in special},
    )


def _one_to_one(pairs: Iterable[tuple[bytes, int]]) -> dict[bytes, int]:
    """Return byte string -> rank; raise ValueError if two pairs have the same byte string or the same rank."""
    ranks: dict[bytes, int] = {}
    owners: dict[int, bytes] = {}
    for data, rank in pairs:
        if data in ranks:
            raise ValueError(f"the byte string {data!r} has two ranks, {ranks[data]} and {rank}")
        if rank in owners:
            raise ValueError(f"the rank {rank} has two byte strings, {owners[rank]!r} and {data!r}")
        ranks[data], owners[rank] = rank, data
    return ranks


def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


def _spell(data: bytes) -> str:
    """Spell bytes in GPT-2's alphabet."""
    return data.decode("latin-1").translate(_SPELLING)


def _merges(ranks: Mapping[bytes, int], ordered: list[bytes], spelled: Mapping[bytes, str]) -> list[tuple[str, str]]:
    """Recover the merges: every cut of a token into two tokens, in the order of the tokens' ranks."""
    merges: list[tuple[str, str]] = []
    for data in ordered:
        cuts = [
            (ranks[left], ranks[right], spelled[left], spelled[right])
            for at in range(1, len(data))
            if (left := data[:at]) in ranks and (right := data[at:]) in ranks
        ]
        cuts.sort()
        merges += [(left, right) for _, _, left, right in cuts]
    return merges


def translated(pattern: str) -> str:
    r"""Translate a pattern into the dialect of the tokenizers library (Oniguruma).

    In that dialect `x{1,3}+` is a repeated interval instead of a possessive one, and `$` also matches before a newline.

    Raises:
        VocabridgeError: A possessive interval follows a group.
    """

    def part(match: re.Match[str]) -> str:
        if match["end"]:
            return r"\z"
        if match["kept"]:
            return match["kept"]
        if match["atom"] is None:
            raise VocabridgeError(
                f"the pattern {pattern!r} has a possessive interval after a group; write it as (?>...)"
            )
        return f"(?>{match['atom']}{match['interval']})"

    return _PATTERN_PART.sub(part, pattern)
