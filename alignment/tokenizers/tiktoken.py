r"""Fast tokenizers from tiktoken's ranks: byte strings in the order in which they are merged.

tiktoken merges, again and again, the two neighbours whose joined bytes have the lowest rank. A BPE with merges
does the same when *every* cut of a token into two tokens is a merge, and all cuts of a token come at its rank
(transformers' `TikTokenConverter` recovers them so). What the ranks do not hold, a pattern that cuts text into
words and the special tokens, is the caller's to give; Mistral's tekken.json holds all three.
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

# The first special tokens of tekken.json files that do not list theirs: https://github.com/mistralai/mistral-common
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
        tokenizer: A fast tokenizer that segments as Mistral's own does.
        size: The logit width.
        roles: "bos", "eos", "pad", "unk" -> id.
    """

    tokenizer: Tokenizer
    size: int
    roles: Mapping[str, int]


def tiktoken_tokenizer(ranks: Mapping[bytes, int], pattern: str, special_tokens: Mapping[str, int]) -> Tokenizer:
    """Make a fast tokenizer that encodes as tiktoken does.

    Args:
        ranks: Byte string -> id, all 256 single bytes among them; a lower id is merged earlier.
        pattern: The regular expression whose matches are encoded one by one (tiktoken's `pat_str`).
        special_tokens: Text -> id of the special tokens; ids may leave holes.

    Raises:
        VocabridgeError: A single byte has no rank, a special token is spelled as an ordinary one or has its id, or the
            pattern cannot be translated, or an id is too large.
    """
    check_ids("The ranks or special tokens", (*ranks.values(), *special_tokens.values()))
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise VocabridgeError(f"The byte 0x{missing[0]:02X} has no rank; give the ranks of a whole tiktoken file.")
    ordered = sorted(ranks, key=ranks.__getitem__)
    spelled = {data: _spell(data) for data in ordered}
    vocab = {spelled[data]: ranks[data] for data in ordered}
    taken = set(ranks.values())
    for content, i in special_tokens.items():
        if content in vocab or i in taken:
            raise VocabridgeError(f"The special token {content!r} (id {i}) has the spelling or id of another token.")
        vocab[content] = i
        taken.add(i)
    # tiktoken looks a whole word up before it merges anything.
    model = models.BPE(vocab=vocab, merges=_merges(ranks, ordered, spelled), ignore_merges=True)
    tokenizer = Tokenizer(model)
    try:
        split = pre_tokenizers.Split(Regex(translated(pattern)), "isolated")
    except Exception as error:  # tokenizers raises no other
        raise VocabridgeError(f"The pattern {pattern!r} cannot be used ({error}); check it.") from error
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of_words])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in special_tokens])
    return tokenizer


def read_tiktoken(path: str | Path) -> dict[bytes, int]:
    """Read the ranks of a .tiktoken file (Llama-3's and Llama-4's `tokenizer.model` are such files too).

    Each line is a byte string in base64, a space, and its rank.

    Raises:
        VocabridgeError: It cannot be read, a line is not of this form, or two lines have one byte string or one rank.
    """
    path = Path(path)
    refuse_gzip(path)
    refuse_sentencepiece(path)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise VocabridgeError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                data, rank = line.split()
                pairs.append((base64.b64decode(data, validate=True), int(rank)))
            except ValueError as error:  # binascii.Error is one
                raise VocabridgeError(
                    f"{path}: line {number} is no base64 string with a rank; name a file in tiktoken's format."
                ) from error
    try:
        return _one_to_one(pairs)
    except ValueError as error:
        raise VocabridgeError(f"{path}: {error}; download it again.") from error


def refuse_sentencepiece(path: Path) -> None:
    """Raise an error if a file is a SentencePiece model, which often has the name of a tiktoken file.

    Raises:
        VocabridgeError: It is one.
    """
    try:
        with path.open("rb") as file:
            start = file.read(3)
    except OSError:
        return  # whoever reads it says why
    # A Protocol Buffers message that begins with a piece, which begins with its text.
    if start[:1] == b"\n" and start[2:] == b"\n":
        raise VocabridgeError(
            f"{path}: a SentencePiece model; give a tokenizer.json, which transformers makes of it with "
            f"AutoTokenizer.from_pretrained({str(path.parent)!r}).save_pretrained({str(path.parent)!r})."
        )


def read_tekken(path: str | Path) -> TekkenTokenizer:
    """Read Mistral's tekken.json.

    Raises:
        VocabridgeError: It cannot be read or is no tekken.json.
    """
    path = Path(path)
    try:
        return _tekken(read_json(path))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise VocabridgeError(f"{path}: not a readable tekken.json ({error!r}); download it again.") from error
    except VocabridgeError as error:
        raise VocabridgeError(f"{path}: {error}") from error


def _tekken(document: Mapping[str, Any]) -> TekkenTokenizer:
    """Build the tokenizer: special tokens first, then as many of the ranks as the model has rows for."""
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
    """Return byte string -> rank; raise ValueError if two lines have one byte string or one rank."""
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
    """Recover the merges: every cut of a token into two, in the order of the tokens' ranks."""
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
    r"""Return the pattern in the dialect of the tokenizers library (Oniguruma), where it means the same.

    There `x{1,3}+` is no possessive repetition but a repeated one, and `$` also stands before a newline.

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
                f"The pattern {pattern!r} has a possessive interval after a group; write it as (?>...)."
            )
        return f"(?>{match['atom']}{match['interval']})"

    return _PATTERN_PART.sub(part, pattern)
