"""What bytes a token stands for, judged from the tokenizer's own description and never from `decode([id])`.

`decode` joins and cleans: half a character becomes U+FFFD, a leading space disappears. A tokenizer's JSON
says instead which *alphabet* its tokens are spelled in, and each alphabet maps a token to bytes exactly.
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
"""Names by which vocabularies fill rows that no text ever uses.

Gemma, BERT, Llama-3 and Llama-4, llama.cpp, Mistral, the first Qwen, Phi, DeepSeek.
"""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Alphabet(enum.Enum):
    """How the tokens of a vocabulary are spelled.

    Attributes:
        BYTE_LEVEL: GPT-2's: one printable character per byte ("Ġ" is a space). Llama-3, Qwen, SmolLM,
            tiktoken.
        METASPACE: SentencePiece's: "▁" is a space, `<0xXX>` a byte when the model falls back to bytes.
        WORDPIECE: BERT's: a continuation carries a prefix ("##ing"). A word-initial token has *no* space in
            it: the space before it belongs to no token, as in the starts that encoding gives.
        PLAIN: tokens are the text itself.
    """

    BYTE_LEVEL = enum.auto()
    METASPACE = enum.auto()
    WORDPIECE = enum.auto()
    PLAIN = enum.auto()


def is_unused_name(token: str) -> bool:
    """Whether the token is named as one that fills a row."""
    return token[:1] in ("<", "[") and _UNUSED_NAME.fullmatch(token) is not None


def components(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the leaves of a normalizer, pre-tokenizer or decoder, going through every `Sequence`."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for member in part.get(key, ()):
            yield from components(member)


def byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet, character -> byte: printable Latin-1 is itself, the rest is U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(own)]
    return {chr(byte): byte for byte in own} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER = byte_level_alphabet()


@dataclass(frozen=True)
class Spelling:
    """The rule that turns a token into bytes.

    Attributes:
        alphabet: How tokens are spelled.
        byte_fallback: Whether `<0xXX>` is the byte XX.
        space: The character that stands for a space under METASPACE.
        prefix: What marks a continuation ("##"), dropped from the front; may be empty.
        suffix: What marks a word's end ("</w>"), dropped from the back; may be empty.
    """

    alphabet: Alphabet
    byte_fallback: bool = False
    space: str = "▁"
    prefix: str = ""
    suffix: str = ""

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Spelling:
        """Judge the spelling from a tokenizer's JSON (`json.loads(tokenizer.to_str())`)."""
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
            except KeyError:  # not spelled in the alphabet: literal text, as the decoder has it
                return token.encode()
        return self.added_bytes(token)

    def added_bytes(self, content: str) -> bytes:
        """Return the bytes of an added token: its literal text.

        Gemma lists its runs of spaces among the added tokens, spelled "▁▁", and its model emits them for
        spaces.
        """
        if self.alphabet is Alphabet.METASPACE:
            content = content.replace(self.space, " ")
        return content.encode()

    def is_byte_token(self, token: str, data: bytes) -> bool:
        """Whether the token is one byte as such: `<0xXX>`, or a byte that is no character by itself."""
        if self.byte_fallback and token[:3] == "<0x" and _BYTE_TOKEN.fullmatch(token):
            return True
        return self.alphabet is Alphabet.BYTE_LEVEL and len(data) == 1 and data[0] >= 0x80


def space_of(part: Mapping[str, Any]) -> str | None:
    """Return the character that a component puts for a space, or None."""
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace":
        pattern, content = part["pattern"].get("String"), part["content"]
        if pattern == " " and len(content) == 1:
            return str(content)
        if content == " " and pattern is not None and len(pattern) == 1:
            return str(pattern)
    return None
