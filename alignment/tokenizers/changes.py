"""What a tokenizer does to a text before it looks for tokens, found by trying it and named in plain words.

Names alone do not tell: a Unigram's `Precompiled` table acts like NFKC, a BERT normalizer strips accents only if it
lower-cases. So probes go through the normalizer and the pre-tokenizer, and what comes out is compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet, components, space_of

_ALPHABET = byte_level_alphabet()

_SINGLE = (
    ("A", "a", "lower-cases"),
    ("\u00e9", "e", "strips accents"),
    ("a\x01b", "ab", "removes control characters"),
)
_UNICODE_FORMS = {
    (True, False, False): "NFC: composes characters",
    (True, False, True): "NFKC: composes characters and replaces compatibility characters",
    (False, True, False): "NFD: decomposes characters",
    (False, True, True): "NFKD: decomposes characters and replaces compatibility characters",
    (False, False, True): "replaces compatibility characters",
}


def text_changes(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Name what the tokenizer changes in a text; () if its tokens can spell the text as it is.

    That a space is spelled with another character is no change, nor is a space put in front; that this character,
    where a text holds it, becomes a space is one.
    """
    parts = [p for part in (tokenizer.normalizer, tokenizer.pre_tokenizer) for p in components(_described(part))]
    marks = {mark for mark in map(space_of, parts) if mark}
    byte_level = any(part["type"] == "ByteLevel" for part in parts)

    def seen(text: str) -> str:
        """What the model is given of a text."""
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        if tokenizer.pre_tokenizer is not None:
            text = "".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
        if byte_level:
            text = bytes(_ALPHABET.get(character, 0xFF) for character in text).decode(errors="replace")
        for mark in marks:
            text = text.replace(mark, " ")
        return text

    def between(space: str) -> str:
        """What becomes of white space between two words."""
        return seen(f"a{space}b").strip(" ")[1:-1]

    found = [phrase for text, changed, phrase in _SINGLE if seen(text).lstrip(" ") == changed]
    form = seen("e\u0301") == "\u00e9", seen("\u00e9") == "e\u0301", seen("\ufb01").lstrip(" ") == "fi"
    found += [_UNICODE_FORMS[form]] if form in _UNICODE_FORMS else []
    if between(" ") == "":
        found.append("drops white space")
    else:
        if between("  ") == " ":
            found.append("squeezes runs of spaces")
        if between("\t") == " " or between("\n") == " ":
            found.append("turns tabs and newlines into spaces")
        if not seen("a ").endswith(" "):
            found.append("strips white space at the end")
    for part in parts:
        if part["type"] == "Replace" and space_of(part) is None:
            found += _replacement(part, seen)
    sample = "".join(map(chr, (*range(0x21, 0x7F), *range(0xA1, 0x2580))))
    if not found and seen(sample).lstrip(" ") != sample:
        found.append("changes some characters")
    # A character that stands for a space in tokens: where the text itself holds it, it becomes a space, too.
    found += [mark_becomes_space(mark) for mark in sorted(marks) if seen(f"a{mark}b").strip(" ") == "a b"]
    return tuple(found)


def mark_becomes_space(mark: str = "▁") -> str:
    """Name the change of a text that holds the character by which a tokenizer spells a space."""
    return f"turns {mark} (U+{ord(mark):04X}) into a space"


def _replacement(part: Mapping[str, Any], seen: Callable[[str], str]) -> list[str]:
    """Name a replacement that is none of the usual ones; one of a literal text only if it happens."""
    (kind, pattern), content = next(iter(part["pattern"].items())), part["content"]
    if not pattern.strip(" +{2,}"):  # runs of spaces: named already
        return []
    if kind == "String" and pattern in seen(pattern):
        return []
    return [f"replaces {pattern!r} by {content!r}"]


def _described(part: Any) -> Any:
    """Return a normalizer's or pre-tokenizer's description."""
    return None if part is None else json.loads(part.__getstate__())
