"""Covers spell the text, hold what its next characters would make of it, and healing sums them as its equation says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Vocabulary
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

PENDING = [b"", b" ", b"  ", b" t", b"t", b"h", b"\xc3", b"\xff", b"z"]
LAST = st.sampled_from([0x20, 0x74, 0x68, 0xC3, 0xA9, *range(256, 263)])
"""The target's last tokens that are tried: single bytes, and its words."""


@pytest.fixture(scope="module")
def healer(tiny) -> Healer:
    return Healer(tiny["source"], tiny["target"])


@st.composite
def asked(draw: st.DrawFn) -> list[Asked]:
    """Covers with random probabilities; one without pending bytes among them, so that there is some mass."""
    several = [b"", *draw(st.lists(st.sampled_from(PENDING), max_size=3))]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for pending in several:
        logits = random.normal(size=265) * draw(st.sampled_from([0.1, 3.0, 30.0]))
        log_p = (logits - np.logaddexp.reduce(logits)).astype(np.float32)
        found.append(Asked(pending, draw(st.floats(-200, 0)), log_p))
    return draw(st.permutations(found))


def written_out(source: Vocabulary, target: Vocabulary, several: list[Asked], last: int) -> tuple[np.ndarray, float]:
    """The equation: over all covers and all tokens that begin with what is pending, in plain loops."""
    highest = max(one.weight for one in several)
    total, across = np.zeros(source.size), 0.0
    for one in several:
        for w, data in enumerate(source.token_bytes):
            mass = math.exp(one.weight - highest) * math.exp(float(one.log_p[w]))
            if not one.pending:
                total[w] += mass
            elif data.startswith(one.pending) and data != one.pending:
                rest = data[len(one.pending) :]
                would = target.segment(target.token_bytes[last] + rest)
                if len(would) == 1 or would[0] != last:
                    mass *= _UNLIKELY
                same = [i for i, other in enumerate(source.token_bytes) if other == rest]
                total[same[0] if same else source.segment(rest)[0]] += mass
                across += mass
    return total / total.sum(), across / total.sum()


@given(several=asked(), last=LAST)
@settings(max_examples=60, deadline=None)
def test_healing_is_the_sum_over_covers_and_tokens_that_the_equation_says(tiny, healer, several, last):
    healed = healer.heal(several, last)
    p, across = written_out(tiny["source"], tiny["target"], several, last)
    np.testing.assert_allclose(healed.p, p, atol=1e-9, rtol=1e-5)
    assert healed.across == pytest.approx(across, abs=1e-9, rel=1e-5)


@given(several=asked(), last=LAST)
@settings(max_examples=100, deadline=None)
def test_a_healed_distribution_sums_to_1(healer, several, last):
    healed = healer.heal(several, last)
    assert healed.p.min() >= 0
    assert healed.p.sum() == pytest.approx(1, abs=1e-9)
    assert 0 <= healed.across <= 1 + 1e-9


@given(several=asked(), last=LAST)
@settings(max_examples=40, deadline=None)
def test_the_shares_of_all_tokens_after_all_covers_add_up_to_what_was_healed(healer, several, last):
    healed = healer.heal(several, last)
    shares = [[healer.share(healed, one, w, last) for w in range(len(healed.p))] for one in several]
    assert sum(map(sum, shares)) == pytest.approx(1, abs=1e-6)
    across = sum(sum(share) for one, share in zip(several, shares, strict=True) if one.pending)
    assert across == pytest.approx(healed.across, abs=1e-6)


@given(several=asked(), last=LAST)
@settings(max_examples=40, deadline=None)
def test_a_cover_without_pending_bytes_alone_is_the_distribution_of_the_model_itself(healer, several, last):
    one = next(one for one in several if not one.pending)
    healed = healer.heal([one], last)
    np.testing.assert_allclose(healed.p, np.exp(one.log_p.astype(np.float64)), rtol=1e-5)
    assert healed.across == 0
    assert healed.log_total == pytest.approx(one.weight, abs=1e-5)


@pytest.mark.parametrize(
    ("pending", "rest", "last", "plausible"),
    [
        (b"t", b"h", b"t", _UNLIKELY),  # the target has "th", and would not have ended after "t"
        (b" ", b"t", b" ", 1.0),  # it has no " t"
    ],
)
def test_a_token_runs_across_the_end_as_often_as_the_target_would_have_ended_there(
    tiny, healer, pending, rest, last, plausible
):
    def certain(data: bytes) -> np.ndarray:
        log_p = np.full(tiny["source"].size, -np.inf)
        log_p[tiny["source"].canonical[data]] = 0.0
        return log_p

    several = [Asked(b"", 0.0, certain(b"z")), Asked(pending, math.log(0.5), certain(pending + rest))]
    healed = healer.heal(several, tiny["target"].canonical[last])
    mass = 0.5 * plausible
    assert healed.p[tiny["source"].canonical[rest]] == pytest.approx(mass / (1 + mass))
    assert healed.p[tiny["source"].canonical[b"z"]] == pytest.approx(1 / (1 + mass))


def test_where_no_token_begins_with_what_is_pending_nothing_is_said(healer):
    log_p = np.full(265, -math.log(265))
    several = [Asked(b"z", 0.0, log_p), Asked(b"\xff", -1.0, log_p)]
    healed = healer.heal(several, ord("z"))
    assert not healed.p.any()
    assert healed.across == 1
    assert all(healer.share(healed, one, w, ord("z")) == 0 for one in several for w in range(265))


@pytest.mark.parametrize(
    "pending", [b"\x00", b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xfe\xff\xff", b"\xff\xff\xff", b"a", b"zz"]
)
def test_the_run_of_tokens_is_what_a_linear_scan_finds_up_to_the_highest_byte(tiny, pending):
    tokens = tiny["highest"].token_bytes
    found = Healer(tiny["highest"], tiny["target"]).run(pending).tolist()
    assert sorted(found) == [i for i, data in enumerate(tokens) if data.startswith(pending) and data != pending]
    assert found == sorted(found, key=lambda i: tokens[i])


@given(data=st.one_of(st.binary(min_size=1, max_size=3), texts.map(str.encode).filter(bool)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_run_of_tokens_of_a_trained_vocabulary_is_what_a_linear_scan_finds(exact_vocabulary, exact_healer, data):
    for pending in (data[:1], data[:2], data):
        longer = sorted(t for t in exact_vocabulary.canonical if t.startswith(pending) and t != pending)
        assert exact_healer.run(pending).tolist() == [exact_vocabulary.canonical[t] for t in longer]
