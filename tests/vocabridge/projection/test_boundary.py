"""Boundary weights equal those of direct segmentations of the text's end together with each continuation."""

from __future__ import annotations

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vocabridge.alignment import Vocabulary
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet
from vocabridge.projection.boundary import Boundary, character_class
from vocabridge.projection.config import BoundaryConfig

TARGETS = ["words", "byte_level", "sentencepiece", "no_safe_cuts", "wordpiece"]
SAMPLES = [b"", b"a", b"0", b" ", b"\n", b"\t"]
"""A sample of each character class, in the order of `weights_by_class`."""

PIECES = [
    b"", b" ", b"  ", b"    ", b"\n", b"\r", b"\t", b" the", b"the", b"t", b"h", b"he", b"fox", b" fo", b"x", b" gir",
    b"1", b"12", b".", b", ", b"(", b"_", b"\xc3", b"\xa9", "é".encode(), "東京".encode(), b"\xf0\x9f", b"\xff",
    b"\x00",
]  # fmt: skip
pieces = st.one_of(st.sampled_from(PIECES), st.text(max_size=4).map(str.encode), st.binary(max_size=3))


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    """Return a target whose cut of a word depends on its end: " gir" is one token, and " girt" is " g|irt"."""
    merges = [(b" ", b"g"), (b"i", b"r"), (b"ir", b"t"), (b"ir", b"s"), (b" g", b"ir"), (b"f", b"o"), (b" ", b"a"),
              (b"\xc3", b"\xa9"), (b"\xc3\xa9", b"l")]  # fmt: skip
    letter = {byte: character for character, byte in byte_level_alphabet().items()}

    def spelled(data: bytes) -> str:
        return "".join(letter[byte] for byte in data)

    entries = {spelled(bytes([byte])): byte for byte in range(256)}
    entries |= {spelled(a + b): 256 + i for i, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(entries, [(spelled(a), spelled(b)) for a, b in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary.from_tokenizer(tokenizer, name="words", roles={})


@pytest.fixture(scope="module", params=TARGETS)
def target(request, vocabularies, words) -> Vocabulary:
    return words if request.param == "words" else vocabularies[request.param]


@pytest.fixture(scope="module")
def boundary(tiny, target) -> Boundary:
    """Share one object between all examples, so that many of its weights come from its cache."""
    return Boundary(tiny["source"], target, BoundaryConfig())


# --- by token ----------------------------------------------------------------------------------------------------


@given(written=pieces, rests=st.lists(pieces, max_size=6))
@settings(max_examples=examples(60))
def test_weights_equal_those_of_segmentations_by_hand(tiny, target, boundary, judge, written, rests):
    """Whichever continuations are given together, and whether or not they are in the cache."""
    expected = [judge(target).weight(written, rest) for rest in rests]
    assert boundary.weights(written, rests) == pytest.approx(expected, abs=1e-12)
    assert boundary.weights(written, rests[::-1]) == pytest.approx(expected[::-1], abs=1e-12)
    assert Boundary(tiny["source"], target, BoundaryConfig()).weights(written, rests) == pytest.approx(
        expected, abs=1e-12
    )


@given(written=pieces, rests=st.lists(pieces, max_size=4))
@settings(max_examples=examples(60))
def test_weights_are_above_0_and_at_most_1(boundary, written, rests):
    for rest, count in zip(rests, boundary.weights(written, rests), strict=True):
        assert (
            (0.001 if character_class(written[-1:]) == character_class(rest) == character_class(b"a") else 1e-6)
            <= count
            <= 1 + 1e-12
        )


@pytest.mark.parametrize(
    ("written", "rest", "count"),
    [
        # A word takes the space before it along; of two spaces it leaves the first.
        (b" ", b"a", 1e-6),
        (b" ", b"g", 1e-6),
        (b" ", b"x", 1.0),  # there is no " x"
        (b" ", b" a", 1.0),
        (b"  ", b"a", 1e-6),
        (b"fo", b" a", 1.0),
        (b"fo", b" ", 1.0),
        (b"fo", b".", 1.0),
        (b"1", b"g", 1.0),
        (b".", b"x", 1.0),
        # White space is tried with a word after it, which takes the last space.
        (b"x", b"  ", 1.0),
        (b" ", b" ", 1.0),
        (b"  ", b" ", 1.0),
        (b"\n", b"\n", 1.0),
        # Inside words: " gir" is one token, but before "s" and "t" it is " g|ir".
        (b" g", b"ir", 0.05 * 2 / 12),
        (b" g", b"i", 0.95 + 0.05 * 11 / 12),  # not before "r", where it is " gir"
        (b" g", b"irt", 1.0),
        (b" g", b"ira", 0.001),
        (b"f", b"o", 0.001),
        (b"f", b"x", 1.0),
        (b"x", b"f", 1.0),  # "xf" and what follows: the end of "x" stays one
        # Inside characters, with letters after them and without.
        (b"\xc3", b"\xa9", 0.001),
        (b"\xc3", b"\xa9l", 0.001),
        ("é".encode(), b"l", 0.001),
        (b"x", b"\xc3", 1.0),
        (b"\xff", b"\xfe", 1.0),
        # An empty text, or an empty continuation.
        (b"", b"a", 1.0),
        (b"", b"", 1.0),
        (b" ", b"", 1.0),
        (b"f", b"", 1.0),
    ],
)
def test_by_hand(tiny, words, written, rest, count):
    assert Boundary(tiny["source"], words, BoundaryConfig()).weights(written, [rest]) == [pytest.approx(count)]


def test_no_continuations_have_no_weights(boundary):
    assert boundary.weights(b"x", []) == []


def test_a_cached_weight_needs_no_segmentation(tiny, words, monkeypatch):
    boundary, cut, segment = Boundary(tiny["source"], words, BoundaryConfig()), [], Vocabulary.segment_batch
    monkeypatch.setattr(
        Vocabulary, "segment_batch", lambda vocabulary, batch: [cut.extend(batch), segment(vocabulary, batch)][1]
    )
    first = boundary.weights(b" g", [b"ir", b".", b"", b"ir"])
    assert {b" gir ", b" girt", b" g. "} <= set(cut)
    cut.clear()
    assert boundary.weights(b" g", [b"", b"ir", b"ir", b"."]) == [first[2], first[0], first[0], first[1]]
    assert first[0] == first[3]
    assert not cut
    by_kind = boundary.weights_by_class(b" g")
    cut.clear()
    assert boundary.weights_by_class(b" g") is by_kind
    assert not cut


# --- by class ----------------------------------------------------------------------------------------------------


def test_every_token_is_of_one_class(words, any_vocabulary):
    """The class is that of the first byte. Tokens without text and punctuation are of the first class."""
    boundary = Boundary(any_vocabulary, words, BoundaryConfig())
    assert boundary.classes.shape == (any_vocabulary.size,)
    for data, found in zip(any_vocabulary.token_bytes, boundary.classes.tolist(), strict=True):
        first = (data or b"")[:1]
        of_a_kind = [
            first.isalpha() or first >= b"\x80",
            first.isdigit(),
            first == b" ",
            first == b"\n",
            first in (b"\t", b"\r", b"\v", b"\f") and first != b"",
        ]
        assert [not any(of_a_kind), *of_a_kind] == [i == found for i in range(len(SAMPLES))]


def test_a_class_depends_on_the_first_byte_alone():
    assert [character_class(sample) for sample in SAMPLES] == list(range(len(SAMPLES)))
    found = {bytes([byte]): character_class(bytes([byte])) for byte in range(256)}
    assert all(character_class(data + b"x") == character_class(data + b" ") == i for data, i in found.items())
    assert [character_class(data) for data in (b".", b"_", b"<|", b"\x00", b"\x7f")] == [0] * 5
    assert set(found.values()) == set(range(len(SAMPLES)))


@given(written=pieces)
@settings(max_examples=examples(40))
def test_the_weight_of_a_class_is_that_of_its_sample(target, boundary, judge, written):
    found = boundary.weights_by_class(written)
    expected = [judge(target).weight(written, sample) for sample in SAMPLES]
    np.testing.assert_allclose(found, np.array(expected, dtype="float32"))
    assert found.dtype == np.float32
    assert found[0] == 1  # punctuation
