"""Healing sums over covers by its equation, which loops over all tokens of small vocabularies compute here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Vocabulary
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.token_healing import HealedDistribution, TokenHealer

SIZE = 265
PENDING = [b"", b" ", b"  ", b" t", b"t", b"h", b"\xc3", b"\xff", b"z"]
TEXT_ENDS = [b"", b" ", b"  ", b" a", b"t", b"h", b"th", b"xt", b"zh", b"\xc3", b"h\xc3", "é".encode(), b"1", b"."]
"""The ends of texts that are tried, after any of which the target may have ended a token or not."""

ends = st.sampled_from(TEXT_ENDS)

CONFIG = BoundaryConfig()


@dataclass(frozen=True)
class Cover:
    """A cover's pending bytes, log P of its tokens, and what follows it: by random logits, or one token for certain."""

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
def healer(tiny) -> TokenHealer:
    return TokenHealer(tiny["source"], tiny["target"], CONFIG)


@st.composite
def ways(draw: st.DrawFn) -> list[Cover]:
    """Covers with random probabilities; one without pending bytes among them, so that there is some mass."""
    several = [b"", *draw(st.lists(st.sampled_from(PENDING), max_size=3))]
    several = [
        Cover(pending, draw(st.floats(-200, 0)), draw(st.integers(0, 999)), draw(st.sampled_from([0.1, 3.0, 30.0])))
        for pending in several
    ]
    return draw(st.permutations(several))


@dataclass(frozen=True)
class One:
    """The healed prediction after one text."""

    p: torch.Tensor
    across: torch.Tensor
    counts: dict[int, float]
    unsure: list[int]

    @classmethod
    def of(cls, healer: TokenHealer, found: HealedDistribution, i: int = 0) -> One:
        uncertain = healer.uncertain_tokens(found)[i]
        return cls(found.p[i], found.crossing_mass[i], found.boundary_weights[i], uncertain)


def heal(healer: TokenHealer, several: list[Cover], written: bytes) -> One:
    weights = torch.tensor([one.weight for one in several])
    log_p = torch.from_numpy(np.stack([one.log_p for one in several]))
    return One.of(
        healer,
        healer.marginalize([[one.pending for one in several]], [[True] * len(several)], weights, log_p, [written]),
    )


@dataclass(frozen=True)
class Expected:
    """The equation's result, and whether float32 must find the same tokens likely and the same ones uncertain."""

    p: np.ndarray
    across: float
    counts: dict[int, float]
    unsure: set[int]
    certain: bool


def healed_by_loops(source: Vocabulary, judge, several: list[Cover], written: bytes) -> Expected:
    """Compute the equation in loops over all covers and all tokens that begin with the pending bytes."""
    whole, running = np.zeros(source.size), np.zeros(source.size)
    for one in several:
        log_p = one.log_p.astype(float)
        for w, data in enumerate(source.token_bytes):
            mass = math.exp(one.weight + log_p[w])
            if not one.pending:
                whole[w] += mass
            elif data.startswith(one.pending) and data != one.pending:
                rest = data[len(one.pending) :]
                same = [i for i, other in enumerate(source.token_bytes) if other == rest]
                running[same[0] if same else source.segment(rest)[0]] += mass
    mass = whole + running
    every, judged, certain = judge.weights(source, written, mass)
    p, across = mass * every, float(running @ every)
    counts = {w: every[w] for w in judged if 1e-6 < every[w] < 0.99}
    shares = {w: (others := p.sum() - p[w], mass[w] / (others + mass[w]))[1] for w in counts}  # were its count 1
    certain &= all(abs(share - 0.1) > 1e-4 for share in shares.values())
    unsure = {w for w, share in shares.items() if share > 0.1}
    return Expected(p / p.sum(), across / p.sum(), counts, unsure, certain)


@given(several=ways(), written=ends)
@settings(max_examples=examples(60))
def test_healing_is_the_sum_over_covers_and_tokens_of_the_equation(tiny, healer, judge, several, written):
    """Likely tokens are judged one by one, and are uncertain where they would have much mass at weight 1."""
    expected = healed_by_loops(tiny["source"], judge(tiny["target"]), several, written)
    assume(expected.certain)
    found = heal(healer, several, written)
    np.testing.assert_allclose(found.p, expected.p, atol=1e-6, rtol=1e-4)
    assert float(found.across) == pytest.approx(expected.across, abs=1e-6, rel=1e-4)
    assert found.counts == pytest.approx(expected.counts)
    assert set(found.unsure) == expected.unsure


@given(several=ways(), written=ends)
@settings(max_examples=examples(100))
def test_a_healed_distribution_sums_to_1(healer, several, written):
    found = heal(healer, several, written)
    assert found.p.min() >= 0
    assert float(found.p.sum()) == pytest.approx(1, abs=1e-5)
    assert 0 <= float(found.across) <= 1 + 1e-5


@given(several=ways(), written=ends, shift=st.floats(-50, 50), each=st.lists(st.floats(-9, 9), min_size=4, max_size=4))
@settings(max_examples=examples(40))
def test_a_constant_in_all_weights_or_in_the_logits_after_a_cover_makes_no_difference(
    tiny, healer, judge, several, written, shift, each
):
    """If the cover's weight is reduced by the constant of its logits."""
    assume(healed_by_loops(tiny["source"], judge(tiny["target"]), several, written).certain)
    found = heal(healer, several, written)
    each = torch.tensor(each[: len(several)])
    weights = torch.tensor([one.weight + shift for one in several]) - each
    logits = torch.from_numpy(np.stack([one.log_p for one in several])) + each[:, None]
    may_end = [[True] * len(several)]
    moved = One.of(healer, healer.marginalize([[one.pending for one in several]], may_end, weights, logits, [written]))
    torch.testing.assert_close(moved.p, found.p, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(moved.across, found.across, atol=1e-5, rtol=1e-3)
    assert moved.counts == found.counts


@given(texts=st.lists(st.tuples(ways(), ends), min_size=2, max_size=4))
@settings(max_examples=examples(40))
def test_several_texts_are_healed_as_each_is_by_itself(tiny, healer, judge, texts):
    assume(all(healed_by_loops(tiny["source"], judge(tiny["target"]), *one).certain for one in texts))
    weights = torch.tensor([way.weight for several, _ in texts for way in several])
    log_p = torch.from_numpy(np.stack([way.log_p for several, _ in texts for way in several]))
    pendings = [[way.pending for way in several] for several, _ in texts]
    may_end = [[True] * len(several) for several, _ in texts]
    found = healer.marginalize(pendings, may_end, weights, log_p, [written for _, written in texts])
    for i, one in enumerate(texts):
        together, alone = One.of(healer, found, i), heal(healer, *one)
        torch.testing.assert_close(together.p, alone.p)
        torch.testing.assert_close(together.across, alone.across)
        assert (together.counts, together.unsure) == (alone.counts, alone.unsure)


@given(several=ways())
@settings(max_examples=examples(40))
def test_a_cover_without_pending_bytes_alone_is_the_distribution_of_the_model_itself(healer, several):
    """Behind nothing written, where the target ends no token."""
    one = next(one for one in several if not one.pending)
    found = heal(healer, [one], b"")
    np.testing.assert_allclose(found.p, np.exp(one.log_p), rtol=1e-4, atol=1e-30)
    assert (float(found.across), found.counts) == (0, {})


@pytest.mark.parametrize(
    ("pending", "rest", "written", "plausible"),
    [
        (b"t", b"h", b"t", 0.001),  # the target has "th", and would not have ended after "t"; but letters are no proof
        (b" ", b"t", b" ", 1.0),  # it has no " t"
        (b" ", b" ", b" ", 1e-6),  # it has "  ", also before a word
        (b"\xc3", b"\xa9", b"\xc3", 0.001),
    ],
)
def test_a_token_crosses_the_end_as_often_as_the_target_would_have_ended_there(
    tiny, healer, pending, rest, written, plausible
):
    """And the same text weighs as much as a token of a cover that ends there."""
    of = tiny["source"].canonical
    for at_the_end in (
        Cover(pending, math.log(0.5), certain=of[pending + rest]),
        Cover(b"", math.log(0.5), certain=of[rest]),
    ):
        found = heal(healer, [Cover(b"", 0.0, certain=of[b"z"]), at_the_end], written)
        mass = 0.5 * plausible
        assert float(found.p[of[rest]]) == pytest.approx(mass / (1 + mass))
        assert float(found.p[of[b"z"]]) == pytest.approx(1 / (1 + mass))
        assert float(found.across) == pytest.approx(mass / (1 + mass) if at_the_end.pending else 0)
        assert found.counts == ({of[rest]: plausible} if plausible == 0.001 else {})


def test_by_hand_likely_tokens_are_judged_one_by_one_and_all_others_by_class(tiny, healer):
    """Behind "t" words as such count 1, by the sample "a"; but "h" does not, as "th" is one token."""
    of = tiny["source"].canonical
    for mass, others, count in (
        (0.002, 1, 0.001),
        (0.0009, 1, 1.0),  # of too little mass
        (0.01, 15, 0.001),  # the 16th
        (0.01, 16, 0.001),  # the 17th, in the second round
    ):
        p = torch.zeros(SIZE)
        p[[of[bytes([byte])] for byte in b"abcdfgijklmnopqr"[:others]]] = (1 - mass) / others
        p[of[b"h"]] = mass
        found = One.of(healer, healer.marginalize([[b""]], [[True]], torch.zeros(1), p.log()[None], [b"t"]))
        assert float(found.p[of[b"h"]]) == pytest.approx(mass * count / (mass * count + 1 - mass))
        assert found.counts == ({of[b"h"]: 0.001} if count < 1 else {})


def test_by_hand_where_the_likely_tokens_have_no_weight_others_are_judged_until_some_have(tiny, monkeypatch):
    """Of 40 tokens of a kind that counts 1, in falling order, all but the last three count next to nothing."""
    healer = TokenHealer(tiny["source"], tiny["target"], CONFIG)
    spelled = [bytes([byte]) for byte in range(65, 105)]
    asked: list[bytes] = []

    def counts(written: bytes, rests: list[bytes]) -> list[float]:
        asked.extend(rests)
        return [1.0 if rest in spelled[-3:] else 1e-6 for rest in rests]

    kinds = np.ones(len(healer._boundary.weights_by_class(b"t")), dtype="float32")
    monkeypatch.setattr(healer, "_boundary", SimpleNamespace(weights=counts, weights_by_class=lambda written: kinds))
    ids = [tiny["source"].canonical[data] for data in spelled]
    p = torch.zeros(SIZE)
    p[ids] = torch.linspace(40, 20, 40)
    found = One.of(healer, healer.marginalize([[b""]], [[True]], torch.zeros(1), (p / p.sum()).log()[None], [b"t"]))
    assert asked == spelled  # each once
    assert float(found.p[ids[-3:]].sum()) == pytest.approx(1, abs=1e-4)


def test_by_hand_uncertain_tokens_are_those_with_much_mass_at_weight_1(healer):
    masses = {
        7: (0.0002, 0.001),  # would be 0.2 to 0.9998
        5: (0.0001, 0.001),  # 0.1 to 0.9999
        3: (0.5, 0.95),
        2: (0.09, 0.5),  # 0.18 to 0.91
        0: (0.07, 0.95),
    }
    p = torch.zeros(SIZE)
    for w, (mass, _) in masses.items():
        p[w] = mass
    p[9] = 1 - p.sum()  # counts 1
    found = HealedDistribution(
        torch.stack([p, p]), torch.zeros(2), [{}, {w: count for w, (_, count) in masses.items()}]
    )
    assert healer.uncertain_tokens(found) == [[], [7, 3, 2]]


def test_the_weight_of_a_token_with_a_follower_is_that_of_both_together(tiny, vocabularies, judge):
    """A control token ends the text: the target cuts what is in front of it as it stands."""
    source, target = vocabularies["byte_level"], tiny["target"]
    healer, cases = TokenHealer(source, target, CONFIG), 0
    followed = [source.canonical[data] for data in (b"t", b"h", b"\xc3", b" ", b".")]
    following = [0, *(source.canonical[data] for data in (b"h", b"e", b"\xa9", b" ", b"a", b"1", b"\xff"))]
    assert source.token_bytes[0] is None
    for written in TEXT_ENDS:
        for w in followed:
            continuations = [source.token_bytes[w] + source.token_bytes[v] for v in following[1:]]
            expected = [judge(target).weight(written, data) for data in continuations]
            expected.insert(0, judge(target).weight_at_end(written, source.token_bytes[w]))
            assert healer.weights_behind(written, w, following) == pytest.approx(expected)
            cases += len(set(expected)) > 1
    assert cases > 5


def test_a_token_can_cross_where_the_target_may_end_before_a_token_of_its_class(tiny, healer, judge):
    source, found = tiny["source"], set()
    for pending in PENDING[1:]:
        for written in [pending, *TEXT_ENDS, b"x" + pending]:
            longer = [data for data in source.token_bytes if data.startswith(pending) and data != pending]
            expected = any(
                judge(tiny["target"]).weight_of_class(written, data[len(pending) :]) > 1e-6 for data in longer
            )
            assert healer.can_cross(pending, written) == expected
            found.add(expected)
    assert healer.can_cross(b"t", b"t")  # letters after letters are never excluded
    assert not healer.can_cross(b" ", b" ")  # the target has " a" and "  "
    assert not healer.can_cross(b"z", b"z")  # no token of the source begins with it
    assert found == {True, False}


def test_a_likely_cover_without_mass_on_its_pending_bytes_leaves_all_mass_to_others(tiny, healer):
    """Relative to the most likely cover's probability, the mass would underflow in float32."""
    of = tiny["source"].canonical
    found = heal(healer, [Cover(b" ", 0.0, certain=of[b"z"]), Cover(b"", -150.0, certain=of[b"e"])], b" ")
    assert (float(found.p[of[b"e"]]), float(found.across)) == (1, 0)


def test_where_no_token_begins_with_the_pending_bytes_the_prediction_is_0(healer):
    found = heal(healer, [Cover(b"z", 0.0), Cover(b"\xff", -1.0)], b"z")
    assert not found.p.any()
    assert (float(found.across), found.counts, found.unsure) == (0, {}, [])


def test_where_no_likely_token_begins_with_the_pending_bytes_the_prediction_is_0(tiny, healer):
    found = heal(healer, [Cover(b" ", 0.0, certain=tiny["source"].canonical[b"z"])], b" ")
    assert not found.p.any()
    assert (float(found.across), found.counts, found.unsure) == (0, {}, [])


def test_a_healer_has_no_state_for_a_checkpoint(healer):
    assert not healer.state_dict()
    assert not list(healer.parameters())


@pytest.mark.parametrize(
    "pending", [b"\x00", b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xfe\xff\xff", b"\xff\xff\xff", b"a", b"zz"]
)
def test_a_prefix_range_is_what_a_linear_scan_finds_up_to_the_highest_byte(tiny, pending):
    tokens = tiny["highest"].token_bytes
    found = TokenHealer(tiny["highest"], tiny["target"], CONFIG).prefix_range(pending).ids.tolist()
    assert sorted(found) == [i for i, data in enumerate(tokens) if data.startswith(pending) and data != pending]
    assert found == sorted(found, key=lambda i: tokens[i])


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "no_safe_cuts"])
def test_the_prefix_ranges_of_trained_vocabularies_and_their_rests(vocabularies, judge, kind):
    """Each rest is the token of its bytes, or the first piece of them; the run has the kinds of these rests."""
    vocabulary = vocabularies[kind]
    healer = TokenHealer(vocabulary, vocabulary, BoundaryConfig())
    prefixes = {data[:size] for data in vocabulary.canonical for size in (1, 2, len(data))}
    for pending in sorted(prefixes)[::3]:
        longer = sorted(data for data in vocabulary.canonical if data.startswith(pending) and data != pending)
        run = healer.prefix_range(pending)
        assert run.ids.tolist() == [vocabulary.canonical[data] for data in longer]
        for data, rest in zip(longer, run.rests.tolist(), strict=True):
            own = data[len(pending) :]
            expected = vocabulary.canonical.get(own, (vocabulary.segment(own) or (vocabulary.size,))[0])
            assert rest == expected
        assert run.classes.tolist() == sorted(
            {judge(vocabulary).character_class(data[len(pending) :]) for data in longer}
        )


def test_a_control_token_follows_only_the_cover_that_is_the_text_as_it_stands(vocabularies, tiny):
    """Any other cover is one that the tokenizer makes of a longer text."""
    source = vocabularies["byte_level"]
    healer, end, z = TokenHealer(source, tiny["target"], CONFIG), source.roles["eos"], source.canonical[b"z"]
    log_p = torch.full((2, source.size), -math.inf)
    log_p[0, [end, z]] = torch.tensor([0.25, 0.75]).log()
    log_p[1, [end, z]] = torch.tensor([0.5, 0.5]).log()
    found = One.of(healer, healer.marginalize([[b"", b""]], [[True, False]], torch.zeros(2), log_p, [b"th"]))
    assert found.p[[end, z]].tolist() == pytest.approx([0.25 / 1.5, 1.25 / 1.5])
    found = One.of(healer, healer.marginalize([[b"", b"t"]], [[False, False]], torch.zeros(2), log_p, [b"th"]))
    assert found.p[[end, z]].tolist() == pytest.approx([0, 1])
