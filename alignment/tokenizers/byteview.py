"""The bytes that a token stands for, derived from the tokenizer's JSON and not from `decode([id])`.

`decode` cleans its output: half a character becomes U+FFFD, and a leading space disappears. The JSON of a tokenizer
shows which *alphabet* its tokens are spelled in, and each alphabet maps a token to its exact bytes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_UNUSED_NAME = re.compile(
    r"<unused_?\d+>|\[unused\d+\]|<\|(?:\w+_)?reserved_special_token_\d+\|>|<\|?reserved_\d+\|?>"
    r"|<\|reserved_token_\d+\|>|<\|unused_?\d+\|>|\[PAD\d+\]|<SPECIAL_\d+>|<\|extra_\d+\|>|<\|dummy_\d+\|>"
    r"|<\|placeholder\d+\|>|<\|place_holder_\w+_\d+\|>|<\uff5cplace\u2581holder\u2581no\u2581\d+\uff5c>"
)
"""Names of tokens that only fill rows of a vocabulary and stand for no text.

They come from Gemma, BERT, Llama-3 and Llama-4, llama.cpp, Mistral, the first Qwen, Phi and DeepSeek.
"""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Alphabet(enum.Enum):
    """How the tokens of a vocabulary are spelled.

    Attributes:
        BYTE_LEVEL: One printable character per byte, in GPT-2's table ("Ġ" is a space). Used by Llama-3, Qwen, SmolLM
            and tiktoken.
        METASPACE: "▁" is a space, and `<0xXX>` is a byte if the model has byte fallback. Used by SentencePiece.
        WORDPIECE: A continuation of a word has a prefix ("##ing"). The space before a word belongs to no token. Used by
            BERT.
        PLAIN: A token is spelled as its text.
    """

    BYTE_LEVEL = enum.auto()
    METASPACE = enum.auto()
    WORDPIECE = enum.auto()
    PLAIN = enum.auto()


def is_unused_name(token: str) -> bool:
    """Whether the name of a token is one of those that only fill rows of a vocabulary."""
    return token[:1] in ("<", "[") and _UNUSED_NAME.fullmatch(token) is not None


def components(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the components of a normalizer, pre-tokenizer or decoder in order, those inside of `Sequence` included."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for member in part.get(key, ()):
            yield from components(member)


def byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet, character -> byte: printable Latin-1 for itself, U+0100 and up for the other bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER = byte_level_alphabet()


@dataclass(frozen=True)
class Spelling:
    """The rule that turns a token into bytes.

    Attributes:
        alphabet: How tokens are spelled.
        byte_fallback: Whether `<0xXX>` stands for the byte XX.
        space: The character that stands for a space in METASPACE.
        prefix: The mark of a continuation ("##"), which is no part of the text; may be empty.
        suffix: The mark of a word's end ("</w>"), which is no part of the text; may be empty.
    """

    alphabet: Alphabet
    byte_fallback: bool = False
    space: str = "▁"
    prefix: str = ""
    suffix: str = ""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Spelling:
        """Derive the spelling from a tokenizer's JSON (`json.loads(tokenizer.to_str())`)."""
        model = spec["model"]
        parts = [part for key in ("normalizer", "pre_tokenizer", "decoder") for part in components(spec.get(key))]
        types = {part["type"] for part in parts}
        space = next((s for s in map(space_of, parts) if s), None)
        if "ByteLevel" in types:
            alphabet = Alphabet.BYTE_LEVEL
        elif space is not None:
            alphabet = Alphabet.METASPACE
        elif "WordPiece" in types or model["type"] == "WordPiece":
            alphabet = Alphabet.WORDPIECE
        else:
            alphabet = Alphabet.PLAIN
        return cls(
            alphabet,
            byte_fallback=bool(model.get("byte_fallback")) or "ByteFallback" in types,
            space=space or "▁",
            prefix=model.get("continuing_subword_prefix") or "",
            suffix=model.get("end_of_word_suffix") or "",
        )

    def token_bytes(self, token: str) -> bytes:
        """Return the bytes of a token of the model's vocabulary."""
        if self.byte_fallback and token[:3] == "<0x" and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(match[1])
        if self.prefix or self.suffix:
            token = token.removeprefix(self.prefix).removesuffix(self.suffix)
        if self.alphabet is Alphabet.BYTE_LEVEL:
            try:
                return bytes(map(_BYTE_OF_CHARACTER.__getitem__, token))
            except KeyError:  # not spelled in the alphabet, so the decoder takes it as literal text
                return token.encode()
        return self.added_bytes(token)

    def added_bytes(self, content: str) -> bytes:
        """Return the bytes of an added token, which is spelled as its text.

        Only in METASPACE does the space character stand for a space, because Gemma has added tokens such as "▁▁" for
        runs of spaces.
        """
        if self.alphabet is Alphabet.METASPACE:
            content = content.replace(self.space, " ")
        return content.encode()

    def is_byte_token(self, token: str, data: bytes) -> bool:
        """Whether a token stands for a single byte: spelled `<0xXX>`, or a byte that is no UTF-8 character."""
        if self.byte_fallback and token[:3] == "<0x" and _BYTE_TOKEN.fullmatch(token):
            return True
        return self.alphabet is Alphabet.BYTE_LEVEL and len(data) == 1 and data[0] >= 0x80


def space_of(part: Mapping[str, Any]) -> str | None:
    """Return the character by which a component of a tokenizer replaces a space; None if it replaces none."""
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace":
        pattern, content = part["pattern"].get("String"), part["content"]
        if pattern == " " and len(content) == 1:
            return str(content)
        if content == " " and pattern is not None and len(pattern) == 1:
            return str(pattern)
    return None
