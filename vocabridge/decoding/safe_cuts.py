"""Safe cuts: places in a text at which a tokenizer always starts a new token, independent of the text around them.

A place is between two characters of certain kinds, such as a letter and a space. It is safe under two conditions. No
token of the vocabulary spans it, so that no merge can cross it. And the tokenizer encodes sample texts across the place
as it encodes both halves separately.

Whether a token spans a place is decided on characters. A token may also begin or end inside a character. If its bytes
can be the end of one character and the beginning of the next at such a place, the pre-tokenizer must split the two.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, product
from typing import Literal

from tokenizers import Tokenizer
from tokenizers.models import Unigram

from vocabridge.alignment import Vocabulary
from vocabridge.alignment.tokenizers.panics import panics_as_errors


@dataclass(frozen=True)
class _Place:
    """A kind of place in a text.

    Attributes:
        left: The possible characters to the left of the place.
        right: The possible characters to the right of the place.
        probes: Sample texts before and after such a place.
    """

    left: str
    right: str
    probes: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def pattern(self) -> str:
        """Regular expression of width 0 that matches at such places."""
        return f"(?<={_char_class(self.left)})(?={_char_class(self.right)})"


_WORDS = ("a", "The word", "x1", "12", "naïve fo", "  f", "def f", "日本a", "it's", "A\nb", "İB", "мир", "日本", "½")
_SPACES = (" ", "  ", " a", "  b", " 1", " \n", " é", " 日", " .", " '", " \t", "   c d", " 🙂")
_LINES = ("\n", "\n\n", "\n a", "\n  \n b", "\n\tx")
_STOPS = "、。！，：；？"  # noqa: RUF001
_BEFORE_LETTERS = ("日本。", "ab，", "カナ、", "12：", "é！", " ？", "。。")  # noqa: RUF001
_CJK = ("日", "カナ", "ひらがな", "国a", "한국", "的 x", "中。")
_AFTER_LETTERS = ("。", "，日", "：カ", "！\n", "？\n\n a", "。」", "、、", "； b", "，1")  # noqa: RUF001
_CJK_LETTERS = "".join(
    chr(code) for first, last in ("ぁゖ", "ァヺ", "㐀䶿", "一鿿", "가힣") for code in range(ord(first), ord(last) + 1)
)


@lru_cache(maxsize=1)
def _letters() -> str:
    """Return the letters and digits of the Basic Multilingual Plane after which a text may be cut.

    Regular expression engines use different versions of Unicode, so a character counts only if it has been a letter or
    a digit since version 3.2. It must also end in a letter or a digit after lower-casing and in every normal form.
    """
    forms: tuple[Literal["NFD", "NFKC", "NFKD"], ...] = ("NFD", "NFKC", "NFKD")
    return "".join(
        character
        for character in map(chr, range(0x10000))
        if character.isalnum()
        and unicodedata.ucd_3_2_0.category(character)[0] in "LN"
        and all(unicodedata.normalize(form, character)[-1].isalnum() for form in forms)
        and character.lower()[-1].isalnum()
    )


@lru_cache(maxsize=1)
def _places() -> tuple[_Place, ...]:
    letters = _letters()
    return (
        _Place(letters, " ", (_WORDS, _SPACES)),
        _Place(letters, "\n", (_WORDS, _LINES)),
        _Place(letters, _STOPS, (_WORDS, _AFTER_LETTERS)),
        _Place(_STOPS, _CJK_LETTERS, (_BEFORE_LETTERS, _CJK)),
    )


@lru_cache(maxsize=32)
def safe_cuts(vocabulary: Vocabulary) -> re.Pattern[str] | None:
    """Return a regular expression for the safe cuts of a vocabulary; None if it has none."""
    # Added tokens are matched in the raw text. They have no bytes if they are special, and may strip spaces.
    added = vocabulary.tokenizer.get_added_tokens_decoder().values()
    if any(token.rstrip for token in added):
        return None
    tokens = [*filter(None, vocabulary.token_bytes), *(token.content.encode() for token in added)]
    text = _EDGE + _EDGE.join(data.decode(errors="surrogateescape") for data in tokens) + _EDGE
    with panics_as_errors(vocabulary.name):
        safe = [place.pattern for place in _places() if _is_safe(vocabulary, text, place)]
    return re.compile("|".join(safe)) if safe else None


_EDGE = "\ufffe"
"""Separator of tokens, a noncharacter that occurs in no text."""


def _is_safe(vocabulary: Vocabulary, tokens: str, place: _Place) -> bool:
    pairs = _pairs_to_split(vocabulary.tokenizer, tokens, place)
    return pairs is not None and _splits_pairs(vocabulary.tokenizer, pairs) and _splits_probes(vocabulary, place)


def _pairs_to_split(tokenizer: Tokenizer, tokens: str, place: _Place) -> set[str] | None:
    """Return the pairs of characters at a place whose bytes a token may span; None if a token spans whole characters.

    Args:
        tokenizer: The tokenizer, for its normalizer.
        tokens: All tokens, each between two `_EDGE`, with the bytes of incomplete characters escaped as surrogates.
        place: The place.
    """
    # Normalization may change the characters at the place. For letters, the pattern covers all letters, not only those
    # after which a text may be cut.
    left, right = (
        r"[^\W_]" if kind == _letters() else _char_class(kind + _normalized(tokenizer, kind))
        for kind in (place.left, place.right)
    )
    spanning = re.compile(
        rf"({left}|(?<={_EDGE})[\udc80-\udcbf]{{1,3}})({right}|[\udcc2-\udcf4][\udc80-\udcbf]{{0,2}}(?={_EDGE}))"
    )
    spanned = set()
    for match in spanning.finditer(tokens):
        if not _is_partial(match[1]) and not _is_partial(match[2]):
            return None
        spanned.add((match[1], match[2]))
    by_suffix, by_prefix = _by_suffix(place.left), _by_prefix(place.right)
    return {
        left_character + right_character
        for left_part, right_part in spanned
        for left_character, right_character in product(
            _complete(left_part, by_suffix), _complete(right_part, by_prefix)
        )
    }


def _is_partial(text: str) -> bool:
    return "\udc80" <= text[0] <= "\udcff"


def _complete(text: str, by_part: dict[bytes, list[str]]) -> list[str]:
    """Return the characters that contain the bytes of an incomplete one; for a complete character, itself."""
    return by_part.get(text.encode(errors="surrogateescape"), []) if _is_partial(text) else [text]


@lru_cache(maxsize=8)
def _by_suffix(characters: str) -> dict[bytes, list[str]]:
    """Return the characters of several bytes, by each proper suffix of their bytes."""
    index = defaultdict(list)
    for character in characters:
        data = character.encode()
        for start in range(1, len(data)):
            index[data[start:]].append(character)
    return index


@lru_cache(maxsize=8)
def _by_prefix(characters: str) -> dict[bytes, list[str]]:
    """Return the characters of several bytes, by each proper prefix of their bytes."""
    index = defaultdict(list)
    for character in characters:
        data = character.encode()
        for end in range(1, len(data)):
            index[data[:end]].append(character)
    return index


def _normalized(tokenizer: Tokenizer, characters: str) -> str:
    """Return the normal forms of a few characters; "" for many characters, which are letters."""
    if tokenizer.normalizer is None or len(characters) > len(_STOPS):
        return ""
    return "".join(tokenizer.normalizer.normalize_str(character) for character in characters)


def _splits_pairs(tokenizer: Tokenizer, pairs: Iterable[str]) -> bool:
    """Tell whether the pre-tokenizer splits each pair of characters."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    return all(
        pre_tokenizer is not None
        and (normalizer is None or normalizer.normalize_str(pair) == pair)
        and pre_tokenizer.pre_tokenize_str(pair)[0][1] == (0, 1)
        for pair in pairs
    )


def _splits_probes(vocabulary: Vocabulary, place: _Place) -> bool:
    """Tell whether the sample texts are encoded across the place as separately."""
    lefts, rights = place.probes
    texts = [text for left in lefts for right in rights for text in (left, right, left + right)]
    splits = [[encoding.ids.tolist() for encoding in vocabulary.encode_batch(texts)]]
    if isinstance(vocabulary.tokenizer.model, Unigram):
        # If two tokenizations are equally likely (## ### and ### ##), rounding decides, and that depends on the text
        # before them in the same word. So the pre-tokenizer must split at the place as well.
        splits.append([_words(vocabulary.tokenizer, text) for text in texts])
    return all(split[i] + split[i + 1] == split[i + 2] for split in splits for i in range(0, len(texts), 3))


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the words into which the pre-tokenizer splits a text."""
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] if tokenizer.pre_tokenizer else [text]


@lru_cache(maxsize=16)
def _char_class(characters: str) -> str:
    """Return a character class of a regular expression for a set of characters."""
    return f"[{''.join(_ranges(sorted(map(ord, set(characters)))))}]"


def _ranges(codes: list[int]) -> Iterator[str]:
    for _, run in groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]):
        group = [code for _, code in run]
        first, last = (re.escape(chr(code)) for code in (group[0], group[-1]))
        yield first if len(group) == 1 else f"{first}-{last}"
