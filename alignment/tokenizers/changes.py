"""The changes that a tokenizer makes to a text before it cuts it into tokens, named in plain words.

The names of normalizers do not show these changes: the `Precompiled` table of a Unigram model acts like NFKC, and a
BERT normalizer strips accents only if it lower-cases. Therefore sample texts are passed through the normalizer and the
pre-tokenizer, and the output is compared with the input.
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
    """Name the changes that a tokenizer makes to a text; () if its tokens spell every text as it is.

    Spelling a space with another character ("▁") is no change, and neither is a prepended space. Turning that
    character into a space, if it is in the text, is a change.
    """
    parts = [p for part in (tokenizer.normalizer, tokenizer.pre_tokenizer) for p in components(_spec(part))]
    marks = {mark for mark in map(space_of, parts) if mark}
    byte_level = any(part["type"] == "ByteLevel" for part in parts)

    def changed(text: str) -> str:
        """Return a text after normalizer and pre-tokenizer, with spaces and bytes spelled plainly again."""
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        if tokenizer.pre_tokenizer is not None:
            text = "".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
        if byte_level:
            text = bytes(_ALPHABET.get(character, 0xFF) for character in text).decode(errors="replace")
        for mark in marks:
            text = text.replace(mark, " ")
        return text

    def between_words(space: str) -> str:
        """Return the white space that is between two words after the changes."""
        return changed(f"a{space}b").strip(" ")[1:-1]

    changes = [phrase for text, result, phrase in _SINGLE if changed(text).lstrip(" ") == result]
    form = changed("e\u0301") == "\u00e9", changed("\u00e9") == "e\u0301", changed("\ufb01").lstrip(" ") == "fi"
    changes += [_UNICODE_FORMS[form]] if form in _UNICODE_FORMS else []
    if between_words(" ") == "":
        changes.append("drops white space")
    else:
        if between_words("  ") == " ":
            changes.append("squeezes runs of spaces")
        if between_words("\t") == " " or between_words("\n") == " ":
            changes.append("turns tabs and newlines into spaces")
        if not changed("a ").endswith(" "):
            changes.append("strips white space at the end")
    for part in parts:
        if part["type"] == "Replace" and space_of(part) is None:
            changes += _replacement(part, changed)
    sample = "".join(map(chr, (*range(0x21, 0x7F), *range(0xA1, 0x2580))))
    if not changes and changed(sample).lstrip(" ") != sample:
        changes.append("changes some characters")
    changes += [mark_becomes_space(mark) for mark in sorted(marks) if changed(f"a{mark}b").strip(" ") == "a b"]
    return tuple(changes)


def mark_becomes_space(mark: str = "▁") -> str:
    """Name the change by which the character that spells a space in tokens becomes a space if a text holds it."""
    return f"turns {mark} (U+{ord(mark):04X}) into a space"


def _replacement(part: Mapping[str, Any], changed: Callable[[str], str]) -> list[str]:
    """Name the change that a `Replace` makes; () if it only squeezes spaces, or does not take effect."""
    (kind, pattern), content = next(iter(part["pattern"].items())), part["content"]
    if not pattern.strip(" +{2,}"):  # runs of spaces: named already
        return []
    if kind == "String" and pattern in changed(pattern):
        return []
    return [f"replaces {pattern!r} by {content!r}"]


def _spec(part: Any) -> Any:
    """Return the JSON of a normalizer or pre-tokenizer."""
    return None if part is None else json.loads(part.__getstate__())
