"""The audit of an alignment: what it covers, and where the mass of a real text goes.

Both tokenizers encode a text. At a byte where target token y and source token w both start, the static carry
C (columns of the counts that sum to 1) gives the true token y

    C[y, w]                                  the mass that arrives
    -log2 max(C[y, w], 1/|T|)                the bits lost

of the mass of w, as if the source model had been sure of w; no token costs more than a uniform guess. The
rest of the mass went to another token of y's class, to another class, or nowhere (w has no column). A class
that loses its mass cannot be steered: where digits have no partners, arithmetic is what breaks.

Text is read as a stream; memory grows with the pairs of tokens seen and not with the text.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from .alignment import Alignment, VocabularyCard
from .builder import Progress
from .builders.cooccurrence import common_starts
from .builders.exact import exact_partners
from .classes import TokenClass, classes_of, classify
from .corpus import Corpus, CorpusCard
from .pair_counts import PairCounts
from .vocabulary import Encoding, Int8, Int64, Kind, Vocabulary

Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

WEAK = 0.9
"""The share under which a class is weak.

Measured from SmolLM2 to Gemma-3: a total method covers every class whole and, on text that it did not count, gives
words, numbers, punctuation and code 98% of their mass or more; `exact` covers 29% of the words and 5% of the numbers.
"""

WORST = 20
"""How many of the worst tokens are listed."""

_BATCH = 16
"""Pieces of text encoded together, about 1 MiB."""

_SHOWN = 3
_SHOWN_FROM = 1e-3
"""How many of the tokens that got the mass are listed, and the mass from which on they are."""

_CLASSES = tuple(TokenClass)


@dataclass(frozen=True)
class Coverage:
    """What the alignment does for the tokens of one class of one vocabulary.

    Attributes:
        token_class: The class; None for all classes together.
        ids: Ids of the class that stand for bytes; of CONTROL, those that steer the model.
        covered: Those of them that have an entry: a row of the target's, a column of the source's.
        occurrences: Tokens of the class in the text.
        covered_occurrences: Those of the occurrences whose id has an entry.
        common: Those of the occurrences that start where a token of the other tokenizer starts.
        arrived: At these, the mass on the very target token that stands there; in occurrences.
        same_class: The mass on other tokens of that token's class.
        other_class: The mass on tokens of other classes.
        bits: The bits lost at these, together.
        least_bits: What the static carry that is best for this very text would lose.
    """

    token_class: TokenClass | None
    ids: int = 0
    covered: int = 0
    occurrences: int = 0
    covered_occurrences: int = 0
    common: int = 0
    arrived: float = 0.0
    same_class: float = 0.0
    other_class: float = 0.0
    bits: float = 0.0
    least_bits: float = 0.0

    @property
    def by_vocabulary(self) -> float:
        """The share of the ids that have an entry; NaN where there are none."""
        return _ratio(self.covered, self.ids)

    @property
    def by_mass(self) -> float:
        """The share of the occurrences whose id has an entry."""
        return _ratio(self.covered_occurrences, self.occurrences)

    @property
    def at_boundaries(self) -> float:
        """The share of the occurrences that start where a token of the other tokenizer starts."""
        return _ratio(self.common, self.occurrences)

    @property
    def arriving(self) -> float:
        """The mean mass on the very token, at common boundaries."""
        return _ratio(self.arrived, self.common)

    @property
    def kept(self) -> float:
        """The mean mass on the very token and others of its class, at common boundaries."""
        return _ratio(self.arrived + self.same_class, self.common)

    @property
    def nowhere(self) -> float:
        """The mass that no target token gets, in occurrences at common boundaries."""
        return max(0.0, self.common - self.arrived - self.same_class - self.other_class)

    @property
    def bits_each(self) -> float:
        """Bits lost per occurrence at a common boundary."""
        return _ratio(self.bits, self.common)

    @property
    def least_bits_each(self) -> float:
        """What the static carry that is best for this very text would lose per occurrence."""
        return _ratio(self.least_bits, self.common)


@dataclass(frozen=True)
class Balance:
    """The mass a class of target tokens gets, beside what it should get.

    A source token that may become tokens of several classes rightly spreads its mass over them. What counts for
    a class is the sum: less than it should get means that its tokens have been left out.

    Attributes:
        token_class: The class.
        due: Target tokens of the class at common boundaries.
        got: The mass carried to the class there, whatever token stood there; in occurrences.
    """

    token_class: TokenClass
    due: int
    got: float

    @property
    def share(self) -> float:
        """How much of its mass the class gets; above 1 where it gets too much."""
        return _ratio(self.got, self.due)


@dataclass(frozen=True)
class Entries:
    """How many entries the rows (or columns) of the ids that stand for bytes have.

    Attributes:
        none: Ids without any.
        one: Ids with one.
        few: Ids with two to five.
        many: Ids with more.
        by_power: The k-th is the number of ids with more than 2^(k-1) and at most 2^k entries.
    """

    none: int
    one: int
    few: int
    many: int
    by_power: tuple[int, ...]


@dataclass(frozen=True)
class Overlap:
    """Which byte strings are tokens of both vocabularies.

    Attributes:
        shared: Byte strings that are tokens of both.
        only_source: Byte strings that are tokens of the source alone.
        only_target: Byte strings that are tokens of the target alone.
        paired: Of the shared, those whose two ids have an entry.
        source_mass: The source tokens of the text; `source_mass_shared` of them have shared bytes.
        source_mass_shared: See `source_mass`.
        target_mass: The target tokens of the text; `target_mass_shared` of them have shared bytes.
        target_mass_shared: See `target_mass`.
    """

    shared: int
    only_source: int
    only_target: int
    paired: int
    source_mass: int
    source_mass_shared: int
    target_mass: int
    target_mass_shared: int

    @property
    def of_source(self) -> float:
        """The share of the source's byte strings that are shared."""
        return _ratio(self.shared, self.shared + self.only_source)

    @property
    def of_target(self) -> float:
        """The share of the target's byte strings that are shared."""
        return _ratio(self.shared, self.shared + self.only_target)

    @property
    def of_source_mass(self) -> float:
        """The share of the text's source tokens that have shared bytes."""
        return _ratio(self.source_mass_shared, self.source_mass)

    @property
    def of_target_mass(self) -> float:
        """The share of the text's target tokens that have shared bytes."""
        return _ratio(self.target_mass_shared, self.target_mass)


@dataclass(frozen=True)
class Fertility:
    """How finely both tokenizers cut one class of text.

    The text is cut into units: a word, a number or a run of other marks, each with one space before it if
    there is one, and the white space left between them. A unit's class is that of `classify`; a token belongs
    to the unit in which it starts.

    Attributes:
        text_class: The class of the units; None for all together.
        units: Units of that class.
        bytes: Their bytes.
        source_tokens: Source tokens that start in them.
        target_tokens: Target tokens that start in them.
    """

    text_class: TokenClass | None
    units: int = 0
    bytes: int = 0
    source_tokens: int = 0
    target_tokens: int = 0

    @property
    def source_per_unit(self) -> float:
        """Source tokens per unit."""
        return _ratio(self.source_tokens, self.units)

    @property
    def target_per_unit(self) -> float:
        """Target tokens per unit."""
        return _ratio(self.target_tokens, self.units)

    @property
    def source_bytes(self) -> float:
        """Bytes per source token."""
        return _ratio(self.bytes, self.source_tokens)

    @property
    def target_bytes(self) -> float:
        """Bytes per target token."""
        return _ratio(self.bytes, self.target_tokens)


@dataclass(frozen=True)
class Token:
    """A token for people.

    Attributes:
        id: Its id.
        text: Its bytes as `readable` shows them.
    """

    id: int
    text: str


@dataclass(frozen=True)
class Share:
    """A target token that gets mass.

    Attributes:
        token: The token.
        mass: How much, of 1.
    """

    token: Token
    mass: float


@dataclass(frozen=True)
class Loss:
    """A target token that loses mass.

    Attributes:
        target: The token.
        source: The source token that stands most often where it starts.
        occurrences: How often it starts where a source token starts.
        arrived: The mass on it, in occurrences.
        bits: The bits lost at these, together.
        instead: The tokens that got most of the mass in its place, largest first.
    """

    target: Token
    source: Token
    occurrences: int
    arrived: float
    bits: float
    instead: tuple[Share, ...]

    @property
    def arriving(self) -> float:
        """The mean mass on it."""
        return _ratio(self.arrived, self.occurrences)

    @property
    def bits_each(self) -> float:
        """Bits lost per occurrence."""
        return _ratio(self.bits, self.occurrences)


class Grouping(enum.Enum):
    """How a tokenizer cuts a run of digits, judged by "1234567".

    Attributes:
        SINGLE: Every digit is a token.
        THREES_FROM_LEFT: 123 456 7.
        THREES_FROM_RIGHT: 1 234 567.
        OTHER: As it learned to.
    """

    SINGLE = "single digits"
    THREES_FROM_LEFT = "threes from the left"
    THREES_FROM_RIGHT = "threes from the right"
    OTHER = "other groups"


@dataclass(frozen=True)
class DigitHabits:
    """What a tokenizer does with digits.

    Attributes:
        grouping: How it cuts a run of digits.
        space_joined: Whether " 7" is one token.
        ones: How many of "0".."9" are one token.
        tens: How many of "10".."99" are one token.
        hundreds: How many of "100".."999" are one token.
        cuts: Some texts -> the pieces they are cut into, as `readable` shows them.
    """

    grouping: Grouping
    space_joined: bool
    ones: int
    tens: int
    hundreds: int
    cuts: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class DigitFlow:
    """What one source digit becomes.

    Attributes:
        source: The digit's token.
        to_itself: The mass on target tokens of the very same bytes.
        to_numbers: The mass on target tokens that are numbers, itself among them.
        to: The target tokens that get most, largest first.
    """

    source: Token
    to_itself: float
    to_numbers: float
    to: tuple[Share, ...]


@dataclass(frozen=True)
class Audit:
    """All that is known of an alignment and a text.

    Attributes:
        method: How the alignment was built.
        source: The value network's vocabulary.
        target: The base model's vocabulary.
        text: The text that was encoded.
        targets: What is covered of the target's tokens, a class each.
        sources: What is covered of the source's tokens, a class each.
        balances: Whether each class of the target's tokens gets the mass that it should get.
        rows: Entries per target token: how many source tokens speak for it.
        columns: Entries per source token: how many target tokens it becomes.
        overlap: The tokens of the very same bytes.
        fertility: How finely both cut the text, a class of text each.
        worst: The target tokens that lose most bits on the text, the worst first.
        source_digits: What the source tokenizer does with digits.
        target_digits: What the target tokenizer does with digits.
        digit_flows: What the source's digits "0".."9" become, those that it has.
        source_unspelled: Bytes of the text that no source token spells where it stands: changed by the tokenizer,
            dropped, or read as a control token.
        target_unspelled: The same of the target.
    """

    method: str
    source: VocabularyCard
    target: VocabularyCard
    text: CorpusCard
    targets: tuple[Coverage, ...]
    sources: tuple[Coverage, ...]
    balances: tuple[Balance, ...]
    rows: Entries
    columns: Entries
    overlap: Overlap
    fertility: tuple[Fertility, ...]
    worst: tuple[Loss, ...]
    source_digits: DigitHabits
    target_digits: DigitHabits
    digit_flows: tuple[DigitFlow, ...]
    source_unspelled: int
    target_unspelled: int

    @classmethod
    def of(
        cls,
        alignment: Alignment,
        source: Vocabulary,
        target: Vocabulary,
        corpus: Corpus,
        progress: Progress | None = None,
    ) -> Audit:
        """Audit an alignment on a text.

        Args:
            alignment: The alignment.
            source: The vocabulary it was made for, S.
            target: The vocabulary it was made for, T.
            corpus: The text; best one that the alignment was not counted on.
            progress: Told how far it is, in bytes of text.

        Raises:
            VocabridgeError: The alignment was made for other vocabularies; the text cannot be read.
        """
        alignment.check(source, target)
        classes = classes_of(source), classes_of(target)
        seen = _read(source, target, corpus, progress or (lambda done, total: None))
        carried = _Carried.of(alignment, source, target, classes, seen.pairs.matrix(source, target))
        targets, sources = carried.coverages(seen.target.tokens, seen.source.tokens)
        return cls(
            method=alignment.method,
            source=alignment.source,
            target=alignment.target,
            text=corpus.card,
            targets=targets,
            sources=sources,
            balances=carried.balances(),
            rows=_entries(carried.row_sizes[target.usable]),
            columns=_entries(carried.column_sizes[source.usable]),
            overlap=_overlap(alignment.counts, source, target, seen),
            fertility=seen.fertility,
            worst=carried.worst(),
            source_digits=_digit_habits(source),
            target_digits=_digit_habits(target),
            digit_flows=tuple(carried.digit_flows()),
            source_unspelled=seen.source.unspelled,
            target_unspelled=seen.target.unspelled,
        )

    @property
    def all_targets(self) -> Coverage:
        """What is covered of the target's tokens, of every class."""
        return _total(Coverage, self.targets)

    @property
    def all_sources(self) -> Coverage:
        """What is covered of the source's tokens, of every class."""
        return _total(Coverage, self.sources)

    @property
    def all_text(self) -> Fertility:
        """How finely both cut the text, of every class."""
        return _total(Fertility, self.fertility)

    @property
    def weak(self) -> tuple[str, ...]:
        """A sentence for each class, and each reason, that is weak: see `weak_classes`, and by this text's mass."""
        return tuple(_weak(self.targets, self.sources, self.balances))

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form: fields and ratios, classes by their labels."""
        document: dict[str, Any] = _document(self)
        return document


def weak_classes(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> tuple[str, ...]:
    """Say which classes of tokens the alignment leaves open, by vocabulary alone, without reading any text.

    A class is weak when less than `WEAK` of its ids have an entry, on either side. (Its own counts cannot tell by
    mass: what they lack weighs nothing in them.) CONTROL is left out: such tokens have partners by role, and
    most have none.

    Args:
        alignment: The alignment.
        source: The vocabulary it was made for, S.
        target: The vocabulary it was made for, T.

    Returns:
        One sentence for each weak class and side.
    """
    rows = np.diff(alignment.counts.indptr) > 0
    columns = np.bincount(alignment.counts.indices, minlength=source.size) > 0
    targets = _by_vocabulary(target, classes_of(target), rows)
    return tuple(_weak(targets, _by_vocabulary(source, classes_of(source), columns)))


def readable(data: bytes) -> str:
    r"""Show any bytes as printable text, each in a way of its own: a space as ␣, a newline as \n, a byte as \xNN."""
    return "".join(map(_readable_character, data.decode(errors="surrogateescape")))


def _readable_character(character: str) -> str:
    if character == " ":
        return "␣"
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable() and character not in "\\␣":
        return character
    if "\x80" <= character <= "\xff":  # two bytes: not to be taken for a byte as such
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _total(kind: type[Any], parts: Iterable[Any]) -> Any:
    """Add up every number of some dataclasses whose first field is their class."""
    numbers = [field.name for field in dataclasses.fields(kind)][1:]
    parts = list(parts)
    return kind(None, *(sum(getattr(part, name) for part in parts) for name in numbers))


def _weak(targets: Sequence[Coverage], sources: Sequence[Coverage], balances: Sequence[Balance] = ()) -> Iterator[str]:
    for token_class in _CLASSES[: TokenClass.CONTROL]:
        y, w = targets[token_class], sources[token_class]
        reasons = [
            (y.by_vocabulary, "of the target's tokens have a row"),
            (w.by_vocabulary, "of the source's tokens have a column"),
            (y.by_mass, "of the text's target tokens have a row"),
            (w.by_mass, "of the text's source tokens have a column"),
        ]
        if balances:
            reasons.append((balances[token_class].share, "of the mass arrives on this text"))
        for share, what in reasons:
            if share < WEAK:  # never so for NaN
                yield f"{token_class.label}: only {share:.1%} {what}."


# Reading the text.


@dataclass
class _Side:
    """What one tokenizer makes of the text, adding up.

    Attributes:
        vocabulary: The tokenizer's vocabulary.
        tokens: (size,) int64, occurrences of each id.
        in_units: (classes,) int64, tokens that start in units of each class.
        unspelled: Bytes of the text that no token spells where it stands.
    """

    vocabulary: Vocabulary
    tokens: Int64
    in_units: Int64
    unspelled: int = 0

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> _Side:
        return cls(vocabulary, np.zeros(vocabulary.size, np.int64), np.zeros(len(_CLASSES), np.int64))

    def add(self, encoding: Encoding, text: str, units: _Units) -> None:
        ids, starts, data = encoding.ids, encoding.starts, text.encode()
        self.tokens += np.bincount(ids, minlength=self.vocabulary.size)
        textual = self.vocabulary.kinds[ids] != Kind.CONTROL
        self.in_units += units.count(np.maximum.accumulate(starts[textual]))
        spelled = 0
        for i, start in zip(ids.tolist(), starts.tolist(), strict=True):
            own = self.vocabulary.token_bytes[i]
            if own is not None and start >= 0 and data.startswith(own, start):
                spelled += len(own)
        self.unspelled += len(data) - spelled


_UNIT = re.compile(r" ?(?:[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|(?:[^\w\s]|_)+)|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class _Units:
    """A text cut into units; see `Fertility`.

    Attributes:
        ends: (n,) int64, the byte after each unit.
        classes: (n,) int64, a `TokenClass` each.
    """

    ends: Int64
    classes: Int64

    @classmethod
    def of(cls, text: str) -> _Units:
        units = _UNIT.findall(text)
        ends = np.cumsum([len(unit.encode()) for unit in units], dtype=np.int64)
        return cls(ends, np.array([_class_of_unit(unit.strip()) for unit in units], np.int64))

    def count(self, starts: Int64) -> Int64:
        """Return (classes,), how many of these bytes lie in units of each class."""
        return np.bincount(self.classes[np.searchsorted(self.ends[:-1], starts, side="right")], minlength=len(_CLASSES))


@functools.lru_cache(1 << 16)
def _class_of_unit(unit: str) -> TokenClass:
    return classify(unit.encode())


@dataclass(frozen=True)
class _Seen:
    """What the text showed.

    Attributes:
        source: What the source tokenizer makes of it.
        target: What the target tokenizer makes of it.
        pairs: Tokens that start at the same byte.
        fertility: Units, bytes and tokens of each class of text.
    """

    source: _Side
    target: _Side
    pairs: PairCounts
    fertility: tuple[Fertility, ...]


def _read(source: Vocabulary, target: Vocabulary, corpus: Corpus, progress: Progress) -> _Seen:
    of_source, of_target = _Side.of(source), _Side.of(target)
    counted, sizes = np.zeros(len(_CLASSES), np.int64), np.zeros(len(_CLASSES), np.int64)
    pairs, chunks = PairCounts(), corpus.chunks()
    while batch := list(itertools.islice(chunks, _BATCH)):
        keys = []
        for text, y, w in zip(batch, target.encode_batch(batch), source.encode_batch(batch), strict=True):
            units = _Units.of(text)
            of_source.add(w, text, units)
            of_target.add(y, text, units)
            keys.append(common_starts(y, w, target, source))
            counted += np.bincount(units.classes, minlength=len(_CLASSES))
            np.add.at(sizes, units.classes, np.diff(units.ends, prepend=0))
        pairs += PairCounts.of(np.concatenate(keys))
        progress(int(sizes.sum()), corpus.bytes)
    numbers = np.stack((counted, sizes, of_source.in_units, of_target.in_units)).T.tolist()
    return _Seen(of_source, of_target, pairs, tuple(Fertility(c, *numbers[c]) for c in _CLASSES[: TokenClass.CONTROL]))


# Where the mass goes.


@dataclass(frozen=True)
class _Carried:
    """Pairs of tokens that stand at the same place, and what the carry does there; n of them.

    Attributes:
        source: S.
        target: T.
        source_classes: (|S|,) int8.
        target_classes: (|T|,) int8.
        columns: C, (|T|, |S|) CSC.
        inside: (classes, |S|) float64, how much of each column falls on each class.
        row_sizes: (|T|,) int64, entries of every row.
        column_sizes: (|S|,) int64, entries of every column.
        y: (n,) target ids.
        w: (n,) source ids.
        times: (n,) float64, how often they stand together.
        arriving: (n,) float64, C[y, w].
    """

    source: Vocabulary
    target: Vocabulary
    source_classes: Int8
    target_classes: Int8
    columns: sp.csc_array
    inside: Float64
    row_sizes: Int64
    column_sizes: Int64
    y: Int64
    w: Int64
    times: Float64
    arriving: Float64

    @classmethod
    def of(
        cls,
        alignment: Alignment,
        source: Vocabulary,
        target: Vocabulary,
        classes: tuple[Int8, Int8],
        pairs: sp.csr_array,
    ) -> _Carried:
        C = alignment.column_weights
        source_classes, target_classes = classes
        membership = sp.csr_array(
            (np.ones(target.size), (target_classes.astype(np.int64), np.arange(target.size))),
            shape=(len(_CLASSES), target.size),
        )
        y, w = (index.astype(np.int64) for index in pairs.tocoo().coords)
        held_y, held_w = (index.astype(np.int64) for index in C.tocoo().coords)
        return cls(
            source=source,
            target=target,
            source_classes=source_classes,
            target_classes=target_classes,
            columns=C.tocsc(),
            inside=np.minimum((membership @ C.astype(np.float64)).toarray(), 1.0),
            row_sizes=np.diff(C.indptr).astype(np.int64),
            column_sizes=np.bincount(C.indices, minlength=source.size),
            y=y,
            w=w,
            times=pairs.data.astype(np.float64),
            arriving=_looked_up(held_y * source.size + held_w, C.data, y * source.size + w),
        )

    @functools.cached_property
    def bits(self) -> Float64:
        """(n,) bits lost each time."""
        return -np.log2(np.maximum(self.arriving, 1 / self.target.size))

    @functools.cached_property
    def least_bits(self) -> Float64:
        """(n,) bits lost each time by the columns that these pairs themselves would give."""
        per_source = np.bincount(self.w, self.times, self.source.size)
        return np.log2(per_source[self.w] / self.times)

    def coverages(
        self, target_tokens: Int64, source_tokens: Int64
    ) -> tuple[tuple[Coverage, ...], tuple[Coverage, ...]]:
        """Return what is covered of the target's and of the source's tokens, given their occurrences."""
        same = self.inside[self.target_classes[self.y], self.w]
        per_pair = {
            "arrived": self.arriving,
            "same_class": np.maximum(same - self.arriving, 0),
            "other_class": np.maximum(self.inside.sum(axis=0)[self.w] - same, 0),
            "bits": self.bits,
            "least_bits": self.least_bits,
        }
        sides = (
            (self.target, self.target_classes, self.row_sizes > 0, target_tokens, self.y),
            (self.source, self.source_classes, self.column_sizes > 0, source_tokens, self.w),
        )
        targets, sources = (
            _on_text(_by_vocabulary(vocabulary, classes, has), classes, has, tokens, ids, self.times, per_pair)
            for vocabulary, classes, has, tokens, ids in sides
        )
        return targets, sources

    def balances(self) -> tuple[Balance, ...]:
        """Return the mass that each class should get, and gets."""
        due = np.bincount(self.target_classes[self.y], self.times, len(_CLASSES))
        got = self.inside @ np.bincount(self.w, self.times, self.source.size)
        return tuple(Balance(c, round(due[c]), float(got[c])) for c in _CLASSES)

    def worst(self) -> tuple[Loss, ...]:
        """Return the target tokens that lose most bits."""
        lost = np.bincount(self.y, self.times * self.bits, self.target.size)
        order = np.argsort(-lost, kind="stable")[:WORST]
        return tuple(self._loss(int(y), float(lost[y])) for y in order if lost[y] > 0)

    def _loss(self, y: int, bits: float) -> Loss:
        here = np.flatnonzero(self.y == y)
        times = self.times[here]
        carried = self.columns[:, self.w[here]] @ (times / times.sum())
        carried[y] = 0.0
        return Loss(
            target=_token(self.target, y),
            source=_token(self.source, int(self.w[here[np.argmax(times)]])),
            occurrences=int(times.sum()),
            arrived=float(times @ self.arriving[here]),
            bits=bits,
            instead=self._largest(carried),
        )

    def digit_flows(self) -> Iterator[DigitFlow]:
        """Yield what each of the source's digits becomes."""
        for digit in (b"%d" % i for i in range(10)):
            if digit in self.source.canonical:
                w = self.source.canonical[digit]
                column = self.columns[:, [w]].toarray().ravel()
                yield DigitFlow(
                    source=_token(self.source, w),
                    to_itself=float(column[list(self.target.ids_of(digit))].sum()),
                    to_numbers=float(self.inside[TokenClass.NUMBERS, w]),
                    to=self._largest(column),
                )

    def _largest(self, masses: Float64) -> tuple[Share, ...]:
        order = np.argsort(-masses, kind="stable")[:_SHOWN].tolist()
        return tuple(Share(_token(self.target, y), float(masses[y])) for y in order if masses[y] >= _SHOWN_FROM)


def _by_vocabulary(vocabulary: Vocabulary, classes: Int8, has_entry: np.ndarray[Any, Any]) -> tuple[Coverage, ...]:
    """Count, for each class of one vocabulary, its ids and those that have an entry."""
    counted = vocabulary.kinds != Kind.UNUSED
    ids = np.bincount(classes[counted], minlength=len(_CLASSES)).tolist()
    covered = np.bincount(classes[counted & has_entry], minlength=len(_CLASSES)).tolist()
    return tuple(Coverage(c, ids[c], covered[c]) for c in _CLASSES)


def _on_text(
    by_vocabulary: Sequence[Coverage],
    classes: Int8,
    has_entry: np.ndarray[Any, Any],
    tokens: Int64,
    ids: Int64,
    times: Float64,
    per_pair: Mapping[str, Float64],
) -> tuple[Coverage, ...]:
    """Add, to each class, its tokens in the text and what the pairs of tokens do."""
    occurrences = np.bincount(classes, tokens, len(_CLASSES))
    covered = np.bincount(classes, tokens * has_entry, len(_CLASSES))
    common = np.bincount(classes[ids], times, len(_CLASSES))
    sums = {name: np.bincount(classes[ids], times * each, len(_CLASSES)) for name, each in per_pair.items()}

    def with_text(one: Coverage, c: TokenClass) -> Coverage:
        numbers: dict[str, Any] = {name: float(values[c]) for name, values in sums.items()}
        counted = round(occurrences[c]), round(covered[c]), round(common[c])
        return Coverage(c, one.ids, one.covered, *counted, **numbers)

    return tuple(with_text(one, c) for one, c in zip(by_vocabulary, _CLASSES, strict=True))


def _looked_up(keys: Int64, values: np.ndarray[Any, Any], wanted: Int64) -> Float64:
    """Return the value of each wanted key, 0 where it is not among the keys, which are sorted."""
    if not len(keys):
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0).astype(np.float64)


def _token(vocabulary: Vocabulary, i: int) -> Token:
    data = vocabulary.token_bytes[i]
    return Token(i, vocabulary.tokenizer.id_to_token(i) or "" if data is None else readable(data))


def _entries(sizes: Int64) -> Entries:
    powers = np.bincount(np.ceil(np.log2(sizes[sizes > 0])).astype(np.int64))
    return Entries(
        none=int(np.count_nonzero(sizes == 0)),
        one=int(np.count_nonzero(sizes == 1)),
        few=int(np.count_nonzero((sizes >= 2) & (sizes <= 5))),
        many=int(np.count_nonzero(sizes > 5)),
        by_power=tuple(powers.tolist()),
    )


def _overlap(counts: sp.csr_array, source: Vocabulary, target: Vocabulary, seen: _Seen) -> Overlap:
    y, w = exact_partners(source, target)
    held_y, held_w = (index.astype(np.int64) for index in counts.tocoo().coords)
    held = _looked_up(held_y * source.size + held_w, counts.data, y * source.size + w)
    return Overlap(
        shared=len(y),
        only_source=len(source.canonical) - len(y),
        only_target=len(target.canonical) - len(y),
        paired=int(np.count_nonzero(held)),
        source_mass=int(seen.source.tokens.sum()),
        source_mass_shared=int(seen.source.tokens[w].sum()),
        target_mass=int(seen.target.tokens.sum()),
        target_mass_shared=int(seen.target.tokens[y].sum()),
    )


# Digits.

_SAMPLES = ("7", " 7", "10", " 10", "2024", " 2024", "1,234.5", "1234567")

_GROUPINGS = {
    (b"1", b"2", b"3", b"4", b"5", b"6", b"7"): Grouping.SINGLE,
    (b"123", b"456", b"7"): Grouping.THREES_FROM_LEFT,
    (b"1", b"234", b"567"): Grouping.THREES_FROM_RIGHT,
}


def _digit_habits(vocabulary: Vocabulary) -> DigitHabits:
    def pieces(texts: Iterable[str]) -> list[tuple[bytes, ...]]:
        cut = vocabulary.segment_batch([text.encode() for text in texts])
        return [tuple(vocabulary.token_bytes[i] or b"" for i in ids) for ids in cut]

    def whole(first: int, end: int) -> int:
        return sum(len(cut) == 1 for cut in pieces(map(str, range(first, end))))

    cuts = dict(zip(_SAMPLES, pieces(_SAMPLES), strict=True))
    return DigitHabits(
        grouping=_GROUPINGS.get(cuts["1234567"], Grouping.OTHER),
        space_joined=cuts[" 7"] == (b" 7",),
        ones=whole(0, 10),
        tens=whole(10, 100),
        hundreds=whole(100, 1000),
        cuts={text: tuple(map(readable, cut)) for text, cut in cuts.items()},
    )


def _document(value: Any) -> Any:
    """Return a value as JSON knows it; a dataclass with its properties."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        return {name: _document(getattr(value, name)) for name in names}
    if isinstance(value, TokenClass):
        return value.label
    if isinstance(value, Grouping):
        return value.value
    if isinstance(value, dict):
        return {key: _document(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_document(item) for item in value]
    return value
