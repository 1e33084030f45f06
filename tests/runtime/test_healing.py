"""Healing sums covers as its equation says, written out here over all tokens of small vocabularies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Vocabulary
from vocabridge.healing import _UNLIKELY, Healer

SIZE = 265
PENDING = [b"", b" ", b"  ", b" t", b"t", b"h", b"\xc3", b"\xff", b"z"]
LAST = st.sampled_from([0x20, 0x74, 0x68, 0xC3, 0xA9, *range(256, 263)])
"""The target's last tokens that are tried: single bytes, and its words."""


@dataclass(frozen=True)
class Way:
    """A cover's pending bytes, log P of its tokens, and what follows: by random logits, or for certain."""

    pending: bytes
    weight: float
    seed: int = 0
    spread: float = 0.0
    certain: int | None = None

    @property
    def log_p(self) -> np.ndarray:
        if self.certain is not None:
            return np.where(np.arange(SIZE) == self.certain, 0, -np.inf).astype(np.float32)
        logits = np.random.default_rng(self.seed).normal(size=SIZE) * self.spread
        return (logits - np.logaddexp.reduce(logits)).astype(np.float32)


@pytest.fixture(scope="module")
def healer(tiny) -> Healer:
    return Healer(tiny["source"], tiny["target"])


@st.composite
def ways(draw: st.DrawFn) -> list[Way]:
    """Covers with random probabilities; one without pending bytes among them, so that there is some mass."""
    several = [b"", *draw(st.lists(st.sampled_from(PENDING), max_size=3))]
    several = [
        Way(pending, draw(st.floats(-200, 0)), draw(st.integers(0, 999)), draw(st.sampled_from([0.1, 3.0, 30.0])))
        for pending in several
    ]
    return draw(st.permutations(several))


def heal(healer: Healer, several: list[Way], last: int) -> tuple[np.ndarray, float, float]:
    weights = torch.tensor([one.weight for one in several])
    log_p = torch.from_numpy(np.stack([one.log_p for one in several]))
    p, across, log_total = healer.heal([one.pending for one in several], weights, log_p, last)
    return p.numpy(), float(across), float(log_total)


def ends(target: Vocabulary, last: int, rest: bytes) -> bool:
    """Whether the target cuts this behind its last token, alone or with a word behind it."""
    cuts = [target.segment(target.token_bytes[last] + rest + more) for more in (b"", b"a")]
    return any(len(cut) > 1 and cut[0] == last for cut in cuts)


def written_out(source: Vocabulary, target: Vocabulary, several: list[Way], last: int) -> tuple[np.ndarray, float]:
    """The equation: over all covers and all tokens that begin with what is pending, in plain loops."""
    total, across = np.zeros(source.size), 0.0
    for one in several:
        log_p = one.log_p.astype(float)
        for w, data in enumerate(source.token_bytes):
            mass = math.exp(one.weight + log_p[w])
            if not one.pending:
                total[w] += mass
            elif data.startswith(one.pending) and data != one.pending:
                rest = data[len(one.pending) :]
                if not ends(target, last, rest):
                    mass *= _UNLIKELY
                same = [i for i, other in enumerate(source.token_bytes) if other == rest]
                total[same[0] if same else source.segment(rest)[0]] += mass
                across += mass
    return total / total.sum(), across / total.sum()


@given(several=ways(), last=LAST)
@settings(max_examples=60, deadline=None)
def test_healing_is_the_sum_over_covers_and_tokens_that_the_equation_says(tiny, healer, several, last):
    p, across, _ = heal(healer, several, last)
    expected, expected_across = written_out(tiny["source"], tiny["target"], several, last)
    np.testing.assert_allclose(p, expected, atol=1e-6, rtol=1e-4)
    assert across == pytest.approx(expected_across, abs=1e-6, rel=1e-4)


@given(several=ways(), last=LAST)
@settings(max_examples=100, deadline=None)
def test_a_healed_distribution_sums_to_1(healer, several, last):
    p, across, _ = heal(healer, several, last)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert 0 <= across <= 1 + 1e-5


@given(several=ways(), last=LAST, shift=st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_what_all_weights_share_is_in_the_total_alone(healer, several, last, shift):
    p, across, log_total = heal(healer, several, last)
    moved = heal(healer, [replace(one, weight=one.weight + shift) for one in several], last)
    np.testing.assert_allclose(moved[0], p, atol=1e-5, rtol=1e-3)
    assert moved[1] == pytest.approx(across, abs=1e-5)
    assert moved[2] == pytest.approx(log_total + shift, abs=1e-3)


@given(several=ways(), last=LAST)
@settings(max_examples=40, deadline=None)
def test_a_cover_without_pending_bytes_alone_is_the_distribution_of_the_model_itself(healer, several, last):
    one = next(one for one in several if not one.pending)
    p, across, log_total = heal(healer, [one], last)
    np.testing.assert_allclose(p, np.exp(one.log_p), rtol=1e-4, atol=1e-30)
    assert across == 0
    assert log_total == pytest.approx(one.weight, abs=1e-4)


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
    of = tiny["source"].canonical
    several = [Way(b"", 0.0, certain=of[b"z"]), Way(pending, math.log(0.5), certain=of[pending + rest])]
    p, _, _ = heal(healer, several, tiny["target"].canonical[last])
    mass = 0.5 * plausible
    assert p[tiny["source"].canonical[rest]] == pytest.approx(mass / (1 + mass))
    assert p[tiny["source"].canonical[b"z"]] == pytest.approx(1 / (1 + mass))


def test_whether_a_token_may_run_on_is_whether_the_target_would_have_ended_before_one_that_does(tiny, healer):
    source, target = tiny["source"], tiny["target"]
    for pending in PENDING[1:]:
        for last in range(target.size):
            longer = [data for data in source.token_bytes if data.startswith(pending) and data != pending]
            expected = any(ends(target, last, data[len(pending) :]) for data in longer)
            assert healer.may_run_on(pending, last) == expected
    assert healer.may_run_on(b" ", target.canonical[b" "])
    assert not healer.may_run_on(b"t", target.canonical[b"t"])


def test_a_likely_cover_that_has_nothing_to_say_leaves_the_word_to_others(tiny, healer):
    """Were all mass measured by the weight of the likeliest cover, a float32 would hold nothing of it."""
    of = tiny["source"].canonical
    several = [Way(b" ", 0.0, certain=of[b"z"]), Way(b"", -150.0, certain=of[b"e"])]
    p, across, log_total = heal(healer, several, of[b" "])
    assert (p[of[b"e"]], across) == (1, 0)
    assert log_total == pytest.approx(-150, rel=1e-4)


def test_where_no_token_begins_with_what_is_pending_nothing_is_said(healer):
    p, across, log_total = heal(healer, [Way(b"z", 0.0), Way(b"\xff", -1.0)], ord("z"))
    assert not p.any()
    assert across == 0
    assert log_total == -math.inf


@pytest.mark.parametrize(
    "pending", [b"\x00", b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xfe\xff\xff", b"\xff\xff\xff", b"a", b"zz"]
)
def test_the_run_of_tokens_is_what_a_linear_scan_finds_up_to_the_highest_byte(tiny, pending):
    tokens = tiny["highest"].token_bytes
    found = Healer(tiny["highest"], tiny["target"]).run(pending).ids.tolist()
    assert sorted(found) == [i for i, data in enumerate(tokens) if data.startswith(pending) and data != pending]
    assert found == sorted(found, key=lambda i: tokens[i])


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "no_safe_cuts"])
def test_the_runs_of_trained_vocabularies_and_their_rests(vocabularies, kind):
    """Each rest is the token of its bytes, or the first piece of them; its sort is that of its first character."""
    vocabulary = vocabularies[kind]
    healer = Healer(vocabulary, vocabulary)
    prefixes = {data[:size] for data in vocabulary.canonical for size in (1, 2, len(data))}
    for pending in sorted(prefixes)[::3]:
        longer = sorted(data for data in vocabulary.canonical if data.startswith(pending) and data != pending)
        run = healer.run(pending)
        assert run.ids.tolist() == [vocabulary.canonical[data] for data in longer]
        for data, rest, sort in zip(longer, run.rests.tolist(), run.sorts.tolist(), strict=True):
            own = data[len(pending) :]
            expected = vocabulary.canonical.get(own, (vocabulary.segment(own) or (vocabulary.size,))[0])
            assert rest == expected
            sample = run.samples[sort]
            assert own[:1] == sample[:1]
            assert len(sample) <= len(own)
