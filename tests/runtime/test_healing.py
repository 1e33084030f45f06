"""Covers spell the text, hold what its next characters would make of it, and healing sums them as its equation says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vocabridge.alignment import Vocabulary
from vocabridge.alignment.byteview import byte_level_alphabet
from vocabridge.healing import _CONTINUATIONS, _UNLIKELY, Asked, Cover, Healer, covers

FRAGMENTS = [
    "The quick brown fox", " fox", " the dogs", "a b", "12345", " 345", "x1", "a", "é", "e\u0301", "Straße",
    " ", "  ", "     ", "\t", "\n", "\n\n", " \n ", "\r\n", "\u00a0",
    "def count(words):\n    return", "\n    ", "\t\tif x:\n", "_id", "'s", "#### 168\n", "24*7=168", "(a b)", ".", ", ",
    "東京は日本", "首", "한국", "мир", "🙂", "👩‍👩‍👧", "👍🏽", "🇩🇪", "Ġ", "<0x41>",
]  # fmt: skip

# Not "▁", which is the space of one of the vocabularies: its tokens do not spell it.
characters = st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=5)
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), characters), max_size=12).map("".join)

EXACT = ["byte_level", "sentencepiece", "no_safe_cuts"]
"""The vocabularies whose tokens spell every text as it is."""


@pytest.fixture(scope="module", params=EXACT)
def exact_vocabulary(request, vocabularies) -> Vocabulary:
    return vocabularies[request.param]


@pytest.fixture(scope="module")
def exact_healer(exact_vocabulary) -> Healer:
    return Healer(exact_vocabulary, exact_vocabulary)


@st.composite
def beginnings(draw: st.DrawFn) -> bytes:
    """The beginning of a text, cut anywhere, inside characters too."""
    data = draw(texts).encode()
    return data[: draw(st.integers(0, len(data)))]


def spelled(vocabulary: Vocabulary, ids) -> bytes:
    return b"".join(vocabulary.token_bytes[i] for i in ids)


def whole(vocabulary: Vocabulary, data: bytes, cover: Cover) -> list[int]:
    """All tokens of a cover, those before the safe cut too."""
    return [*vocabulary.encode(data[: cover.head].decode()).ids.tolist(), *cover.ids]


@given(data=beginnings())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cover_spells_the_text_up_to_its_pending_bytes(exact_vocabulary, data):
    (found,) = covers(exact_vocabulary, [data])
    assert len({cover.ids for cover in found}) == len(found)
    for cover in found:
        assert data.endswith(cover.pending)
        assert spelled(exact_vocabulary, whole(exact_vocabulary, data, cover)) + cover.pending == data


@given(text=texts)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_first_cover_is_the_text_encoded_from_scratch(exact_vocabulary, text):
    first = covers(exact_vocabulary, [text.encode()])[0][0]
    assert first.pending == b""
    assert whole(exact_vocabulary, text.encode(), first) == exact_vocabulary.encode(text).ids.tolist()


@given(text=texts)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tokens_left_of_the_end_are_a_cover_however_the_text_goes_on(exact_vocabulary, text):
    data = text.encode()
    (found,) = covers(exact_vocabulary, [data])
    known = [whole(exact_vocabulary, data, cover) for cover in found]
    for more in _CONTINUATIONS:
        encoding = exact_vocabulary.encode(text + more)
        ends = np.append(encoding.starts[1:], len((text + more).encode()))
        assert encoding.ids[ends <= len(data)].tolist() in known


@given(data=beginnings().filter(lambda data: data.decode(errors="ignore").encode() != data))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_inside_a_character_a_token_begins_with_what_is_pending(exact_vocabulary, exact_healer, data):
    """Else the source would have nothing to say there, and it spells every character."""
    (found,) = covers(exact_vocabulary, [data])
    assert any(not cover.pending or len(exact_healer.run(cover.pending)) for cover in found)


def test_many_texts_have_the_covers_that_each_has_alone(exact_vocabulary):
    several = [fragment.encode()[:size] for fragment in FRAGMENTS for size in (1, 2, 5)]
    assert covers(exact_vocabulary, several) == [covers(exact_vocabulary, [data])[0] for data in several]


@pytest.mark.parametrize("text", ["", " ", "fox ", "fox  ", "\n\n", "é", "x 日", "The▁fox▁"])
@pytest.mark.parametrize("dropped", [0, 1])
def test_what_a_tokenizer_drops_or_changes_is_no_error(any_vocabulary, text, dropped):
    data = text.encode()[: max(0, len(text.encode()) - dropped)]
    (found,) = covers(any_vocabulary, [data])
    assert all(data.endswith(cover.pending) for cover in found)


# --- healing, on vocabularies small enough to write the equation out --------------------------------------------


def tiny(words: list[bytes], name: str) -> Vocabulary:
    """Byte-level BPE: all bytes, each with its value as id, and these words, each merged of a token and one byte."""
    letter = {byte: character for character, byte in byte_level_alphabet().items()}
    spellings = ["".join(letter[byte] for byte in word) for word in words]
    entries = {letter[byte]: byte for byte in range(256)}
    merges = []
    for spelling in spellings:
        entries[spelling] = len(entries)
        merges.append((spelling[:-1], spelling[-1]))
    tokenizer = Tokenizer(models.BPE(entries, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary.from_tokenizer(tokenizer, name=name, roles={})


SOURCE = tiny([b" t", b" th", b" the", b"th", b"the", b"  ", b"   ", b"he", "é".encode()], "source")
TARGET = tiny([b"th", b"the", b"  ", b" a", "é".encode(), b"h\xc3", "hé".encode()], "target")
HEALER = Healer(SOURCE, TARGET)

PENDING = [b"", b" ", b"  ", b" t", b"t", b"h", b"\xc3", b"\xff", b"z"]
TOKENS = st.sampled_from([0x20, 0x74, 0x68, 0xC3, 0xA9, *range(256, TARGET.size)])
"""The target's last tokens that are tried."""


@st.composite
def asked(draw: st.DrawFn) -> list[Asked]:
    """Covers with random probabilities; one without pending bytes among them, so that there is some mass."""
    several = [b"", *draw(st.lists(st.sampled_from(PENDING), max_size=3))]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for pending in several:
        logits = random.normal(size=SOURCE.size) * draw(st.sampled_from([0.1, 3.0, 30.0]))
        log_p = (logits - np.logaddexp.reduce(logits)).astype(np.float32)
        found.append(Asked(pending, draw(st.floats(-200, 0)), log_p))
    return draw(st.permutations(found))


def written_out(several: list[Asked], last: int) -> tuple[np.ndarray, float]:
    """The equation: over all covers and all tokens that begin with what is pending, in plain loops."""
    highest = max(one.weight for one in several)
    total, across = np.zeros(SOURCE.size), 0.0
    for one in several:
        for w in range(SOURCE.size):
            data = SOURCE.token_bytes[w]
            mass = math.exp(one.weight - highest) * math.exp(float(one.log_p[w]))
            if not one.pending:
                total[w] += mass
                continue
            if not data.startswith(one.pending) or data == one.pending:
                continue
            rest = data[len(one.pending) :]
            would = TARGET.segment(TARGET.token_bytes[last] + rest)
            if len(would) == 1 or would[0] != last:
                mass *= _UNLIKELY
            whole_token = [i for i in range(SOURCE.size) if SOURCE.token_bytes[i] == rest]
            total[whole_token[0] if whole_token else SOURCE.segment(rest)[0]] += mass
            across += mass
    return total / total.sum(), across / total.sum()


@given(several=asked(), last=TOKENS)
@settings(max_examples=60, deadline=None)
def test_healing_is_the_sum_over_covers_and_tokens_that_the_equation_says(several, last):
    healed = HEALER.heal(several, last)
    p, across = written_out(several, last)
    np.testing.assert_allclose(healed.p, p, atol=1e-9, rtol=1e-5)
    assert healed.across == pytest.approx(across, abs=1e-9, rel=1e-5)


@given(several=asked(), last=TOKENS)
@settings(max_examples=100, deadline=None)
def test_a_healed_distribution_sums_to_1(several, last):
    healed = HEALER.heal(several, last)
    assert healed.p.min() >= 0
    assert healed.p.sum() == pytest.approx(1, abs=1e-9)
    assert 0 <= healed.across <= 1


@given(several=asked(), last=TOKENS)
@settings(max_examples=40, deadline=None)
def test_the_shares_of_all_tokens_after_all_covers_add_up_to_what_was_healed(several, last):
    healed = HEALER.heal(several, last)
    shares = [[HEALER.share(healed, one, w, last) for w in range(SOURCE.size)] for one in several]
    assert sum(map(sum, shares)) == pytest.approx(1, abs=1e-6)
    across = sum(sum(share) for one, share in zip(several, shares, strict=True) if one.pending)
    assert across == pytest.approx(healed.across, abs=1e-6)


@given(several=asked(), last=TOKENS)
@settings(max_examples=40, deadline=None)
def test_a_cover_without_pending_bytes_alone_is_the_model_s_own_distribution(several, last):
    one = next(one for one in several if not one.pending)
    healed = HEALER.heal([one], last)
    np.testing.assert_allclose(healed.p, np.exp(one.log_p.astype(np.float64)), rtol=1e-5)
    assert healed.across == 0
    assert healed.log_total == pytest.approx(one.weight, abs=1e-5)


def test_a_token_runs_across_the_end_as_often_as_the_target_would_have_ended_there():
    """After "t" the target would not have ended before "h": it has "th". After a space it would: it has no " t"."""
    log_p = np.full(SOURCE.size, -np.inf)
    log_p[SOURCE.ids_of(b"th")[0]] = log_p[SOURCE.ids_of(b" t")[0]] = math.log(0.5)
    for pending, rest, last, plausible in ((b"t", b"h", 0x74, _UNLIKELY), (b" ", b"t", 0x20, 1.0)):
        told = np.full(SOURCE.size, -np.inf)
        told[SOURCE.ids_of(b"z")[0]] = 0.0
        healed = HEALER.heal([Asked(b"", 0.0, told), Asked(pending, 0.0, log_p)], last)
        mass = 0.5 * plausible
        assert healed.p[SOURCE.ids_of(rest)[0]] == pytest.approx(mass / (1 + mass))


def test_where_no_token_begins_with_what_is_pending_nothing_is_said():
    log_p = np.full(SOURCE.size, -math.log(SOURCE.size))
    several = [Asked(b"z", 0.0, log_p), Asked(b"\xff", -1.0, log_p)]
    healed = HEALER.heal(several, 0x7A)
    assert not healed.p.any()
    assert healed.across == 1
    assert all(HEALER.share(healed, one, w, 0x7A) == 0 for one in several for w in range(SOURCE.size))


HIGHEST = tiny(
    [b"\xfe\xff", b"\xfe\xff\x00", b"\xfe\xff\xff", b"\xff\x00", b"\xff\xff", b"\xff\xff\xff", b"ab"], "highest"
)


@pytest.mark.parametrize("pending", [b"\x00", b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xfe\xff\xff", b"a", b"zz"])
def test_the_run_of_tokens_is_what_a_linear_scan_finds_up_to_the_highest_byte(pending):
    expected = [i for i, data in enumerate(HIGHEST.token_bytes) if data.startswith(pending) and data != pending]
    found = Healer(HIGHEST, TARGET).run(pending).tolist()
    assert sorted(found) == expected
    assert found == sorted(found, key=lambda i: HIGHEST.token_bytes[i])


@given(data=st.one_of(st.binary(min_size=1, max_size=3), texts.map(str.encode).filter(bool)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_run_of_tokens_of_a_trained_vocabulary_is_what_a_linear_scan_finds(exact_vocabulary, exact_healer, data):
    for pending in (data[:1], data[:2], data):
        longer = sorted(t for t in exact_vocabulary.canonical if t.startswith(pending) and t != pending)
        assert exact_healer.run(pending).tolist() == [exact_vocabulary.canonical[t] for t in longer]
