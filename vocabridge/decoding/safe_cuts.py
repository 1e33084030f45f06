"""Safe cuts: places in a text at which a tokenizer always starts a new token, whatever stands on either side.

A place lies between two characters of certain kinds, a letter and a space, say. It is safe if no token of the
vocabulary spans it, so that no merge can cross it, and if the tokenizer treats both halves as it treats the whole.
What a token spans is judged on characters. A token may begin or end inside a character; where its bytes can be the
end of one character and the beginning of another that meet at such a place, the pre-tokenizer has to part the two.
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
        left: The characters on its left.
        right: The characters on its right.
        probes: Beginnings and ends of texts that meet at such a place.
    """

    left: str
    right: str
    probes: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def cut(self) -> str:
        """Where it is: a pattern of width 0."""
        return f"(?<={_char_class(self.left)})(?={_char_class(self.right)})"


_WORDS = ("a", "The word", "x1", "12", "naïve fo", "  f", "def f", "日本a", "it's", "A\nb", "İB", "мир", "日本", "½")
_SPACES = (" ", "  ", " a", "  b", " 1", " \n", " é", " 日", " .", " '", " \t", "   c d", " 🙂")
_LINES = ("\n", "\n\n", "\n a", "\n  \n b", "\n\tx")
_STOPS = "、。！，：；？"  # noqa: RUF001
_BEFORE_LETTERS = ("日本。", "ab，", "カナ、", "12：", "é！", " ？", "。。")  # noqa: RUF001
_CJK = ("日", "カナ", "ひらがな", "国a", "한국", "的 x", "中。")
_BEHIND_LETTERS = ("。", "，日", "：カ", "！\n", "？\n\n a", "。」", "、、", "； b", "，1")  # noqa: RUF001
_CJK_LETTERS = "".join(
    chr(code) for first, last in ("ぁゖ", "ァヺ", "㐀䶿", "一鿿", "가힣") for code in range(ord(first), ord(last) + 1)
)


@lru_cache(maxsize=1)
def _letters() -> str:
    """The letters and digits behind which a text may be cut, those of the Basic Multilingual Plane.

    Regular expression engines know different versions of Unicode, so only what has been a letter or a digit since
    version 3.2 counts; and only what ends in one after lower-casing and in every normal form.
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
        _Place(letters, _STOPS, (_WORDS, _BEHIND_LETTERS)),
        _Place(_STOPS, _CJK_LETTERS, (_BEFORE_LETTERS, _CJK)),
    )


@lru_cache(maxsize=32)
def safe_cuts(vocabulary: Vocabulary) -> re.Pattern[str] | None:
    """The places of a text at which encoding always splits; None if there are no such places."""
    # A token that is matched in the raw text stands for no bytes if it is special, and may swallow spaces.
    added = vocabulary.tokenizer.get_added_tokens_decoder().values()
    if any(token.rstrip for token in added):
        return None
    tokens = [*filter(None, vocabulary.token_bytes), *(token.content.encode() for token in added)]
    text = _EDGE + _EDGE.join(data.decode(errors="surrogateescape") for data in tokens) + _EDGE
    with panics_as_errors(vocabulary.name):
        safe = [place.cut for place in _places() if _is_safe(vocabulary, text, place)]
    return re.compile("|".join(safe)) if safe else None


_EDGE = "\ufffe"
"""In no text: it separates tokens."""


def _is_safe(vocabulary: Vocabulary, tokens: str, place: _Place) -> bool:
    meeting = _meeting(vocabulary.tokenizer, tokens, place)
    return meeting is not None and _parts_all(vocabulary.tokenizer, meeting) and _splits_probes(vocabulary, place)


def _meeting(tokenizer: Tokenizer, tokens: str, place: _Place) -> set[str] | None:
    """The pairs of characters that a token of incomplete characters may span at a place; None if a token spans it.

    Args:
        tokenizer: Its normalizer says what becomes of a few characters.
        tokens: All tokens, `_EDGE` around each, with bytes of incomplete characters escaped as surrogates.
        place: The place.
    """
    # After normalization other characters may stand there. Of letters all are meant, not just those that are cut at.
    left, right = (
        r"[^\W_]" if kind == _letters() else _char_class(kind + _normalized(tokenizer, kind))
        for kind in (place.left, place.right)
    )
    spanning = re.compile(
        rf"({left}|(?<={_EDGE})[\udc80-\udcbf]{{1,3}})({right}|[\udcc2-\udcf4][\udc80-\udcbf]{{0,2}}(?={_EDGE}))"
    )
    halves = set()
    for match in spanning.finditer(tokens):
        if not _is_partial(match[1]) and not _is_partial(match[2]):
            return None
        halves.add((match[1], match[2]))
    ends, beginnings = _by_ends(place.left), _by_beginnings(place.right)
    return {
        before + behind
        for first, second in halves
        for before, behind in product(_whole(first, ends), _whole(second, beginnings))
    }


def _is_partial(text: str) -> bool:
    return "\udc80" <= text[0] <= "\udcff"


def _whole(text: str, partial: dict[bytes, list[str]]) -> list[str]:
    """The characters that some bytes, escaped as surrogates, may be a part of; else the character that it is."""
    return partial.get(text.encode(errors="surrogateescape"), []) if _is_partial(text) else [text]


@lru_cache(maxsize=8)
def _by_ends(characters: str) -> dict[bytes, list[str]]:
    """Characters of several bytes by the bytes in which they end, fewer than all."""
    found = defaultdict(list)
    for character in characters:
        data = character.encode()
        for at in range(1, len(data)):
            found[data[at:]].append(character)
    return found


@lru_cache(maxsize=8)
def _by_beginnings(characters: str) -> dict[bytes, list[str]]:
    """Characters of several bytes by the bytes with which they begin, fewer than all."""
    found = defaultdict(list)
    for character in characters:
        data = character.encode()
        for at in range(1, len(data)):
            found[data[:at]].append(character)
    return found


def _normalized(tokenizer: Tokenizer, characters: str) -> str:
    """What normalization makes of a few characters; of many, which are letters, nothing is asked."""
    if tokenizer.normalizer is None or len(characters) > len(_STOPS):
        return ""
    return "".join(tokenizer.normalizer.normalize_str(character) for character in characters)


def _parts_all(tokenizer: Tokenizer, pairs: Iterable[str]) -> bool:
    """Whether the pre-tokenizer parts two characters, for each of some pairs."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    return all(
        pre_tokenizer is not None
        and (normalizer is None or normalizer.normalize_str(pair) == pair)
        and pre_tokenizer.pre_tokenize_str(pair)[0][1] == (0, 1)
        for pair in pairs
    )


def _splits_probes(vocabulary: Vocabulary, place: _Place) -> bool:
    """Whether texts that meet at a place are encoded as each by itself."""
    lefts, rights = place.probes
    texts = [text for left in lefts for right in rights for text in (left, right, left + right)]
    parts = [[encoding.ids.tolist() for encoding in vocabulary.encode_batch(texts)]]
    if isinstance(vocabulary.tokenizer.model, Unigram):
        # Of two ways to cut that are equally likely (## and ###, ### and ##) it takes one by what was added up before
        # them: only where the text is parted before it is cut is what is behind the place cut as by itself.
        parts.append([_words(vocabulary.tokenizer, text) for text in texts])
    return all(found[i] + found[i + 1] == found[i + 2] for found in parts for i in range(0, len(texts), 3))


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """What a text is parted into before each part is cut into tokens."""
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] if tokenizer.pre_tokenizer else [text]


@lru_cache(maxsize=16)
def _char_class(characters: str) -> str:
    """Write a set of characters as a class of a regular expression, by ranges."""
    return f"[{''.join(_ranges(sorted(map(ord, set(characters)))))}]"


def _ranges(codes: list[int]) -> Iterator[str]:
    for _, run in groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]):
        group = [code for _, code in run]
        first, last = (re.escape(chr(code)) for code in (group[0], group[-1]))
        yield first if len(group) == 1 else f"{first}-{last}"
