"""Look-ahead splits a source token's mass by the equation of its module, written out in loops, and never loses any."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge import look_ahead
from vocabridge.alignment import Alignment, Vocabulary, align
from vocabridge.batch import prompt_ids
from vocabridge.combination import Carry
from vocabridge.healing import Healer
from vocabridge.look_ahead import _FOLLOWING, _MOST, _WORTH, LookAhead
from vocabridge.policy import Policy
from vocabridge.projection import Projection
from vocabridge.reading import Reading, Token

SIZES = (265, 263)
WORDS = [b"t", b"th", b" t", b" ", b"h", b"he", b"\xc3", "é".encode(), b"z", b" the"]
CARRIES = [Carry.STATIC, Carry.INFORMED]


def with_columns(tiny: dict[str, Vocabulary], columns: dict[bytes, dict[bytes, float]]) -> Alignment:
    """An alignment of the tiny vocabularies with these columns, and the others as re-tokenisation has them."""
    source, target = tiny["source"], tiny["target"]
    alignment = align(source, target, method="retokenize", cache=False)
    counts = alignment.counts.tolil()
    for w, column in columns.items():
        counts[:, [source.canonical[w]]] = 0
        for y, weight in column.items():
            counts[target.canonical[y], source.canonical[w]] = weight
    counts = sp.csr_array(counts.tocsr())
    counts.eliminate_zeros()
    return dataclasses.replace(alignment, counts=counts)


@st.composite
def columns(draw: st.DrawFn) -> dict[bytes, dict[bytes, float]]:
    """Columns of some source tokens, over target tokens that may or may not begin with their bytes."""
    targets = st.sampled_from([b"t", b"th", b"the", b" ", b"  ", b" a", b"h", b"h\xc3", "hé".encode(), b"\xc3", b"q"])
    column = st.dictionaries(targets, st.floats(0.01, 10), min_size=1, max_size=5)
    return draw(st.dictionaries(st.sampled_from(WORDS), column, max_size=len(WORDS)))


@dataclasses.dataclass(frozen=True)
class Case:
    """Random distributions: of the donors (m, n, |S|), after some of their tokens (m, K, |S|), of the base (n, |T|)."""

    seed: int
    donors: int
    looked: tuple[tuple[int, bytes], ...]
    sharpness: float

    def draw(self, *shape: int) -> torch.Tensor:
        random = np.random.default_rng(self.seed + sum(shape))
        return torch.from_numpy(random.normal(size=shape) * self.sharpness).float().softmax(-1)

    def parts(self, source: Vocabulary) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int], list[int]]:
        p, after = self.draw(self.donors, 2, SIZES[0]), self.draw(self.donors, len(self.looked), SIZES[0])
        ws = [source.canonical[word] for _, word in self.looked]
        return p, after, self.draw(2, SIZES[1]), [position for position, _ in self.looked], ws


@st.composite
def cases(draw: st.DrawFn) -> Case:
    looked = draw(st.sets(st.tuples(st.integers(0, 1), st.sampled_from(WORDS)), min_size=1, max_size=5))
    sharpness = draw(st.sampled_from([0.5, 2.0, 5.0]))
    return Case(draw(st.integers(0, 999)), draw(st.integers(1, 2)), tuple(sorted(looked)), sharpness)


def written_out(ahead, alignment, carry, p, p_target, looked) -> np.ndarray:
    """The carried distribution of one donor at one position; `looked` has what follows each w looked behind."""
    R, C = alignment.row_weights.toarray(), alignment.column_weights.toarray()
    speaking, covered = C.sum(0) > 0, R.sum(1) > 0
    q = np.zeros(SIZES[1])
    for w in range(SIZES[0]):
        u = C[:, w] if carry is Carry.STATIC else p_target * R[:, w]
        left = p[w]
        if w in looked:
            for v in np.argsort(-looked[w]["first"], kind="stable")[:_FOLLOWING]:
                found = ahead.candidates(w, int(v))
                known = dict(zip(found.targets, found.columns, strict=True))
                if carry is Carry.INFORMED:
                    known = {y: row * p_target[y] for y, row in zip(found.targets, found.rows, strict=True)}
                for y, weight in known.items():
                    q[y] += p[w] * looked[w]["own"][v] * weight / sum(known.values())
                left -= p[w] * looked[w]["own"][v]
        if u.sum() > 0:
            q += left * u / u.sum()
    q *= p_target[covered].sum() / p[speaking].sum()
    return q + np.where(covered, 0, p_target)


@given(columns=columns(), case=cases(), carry=st.sampled_from(CARRIES))
@settings(max_examples=25, deadline=None)
def test_it_is_the_sum_over_what_may_follow_that_the_equation_says(tiny, columns, case, carry):
    """For one donor and for two, whose own say on what follows is taken; for any columns."""
    alignment = with_columns(tiny, columns)
    ahead = LookAhead(alignment, tiny["source"], tiny["target"])
    p, after, p_target, position, ws = case.parts(tiny["source"])
    carry_over = getattr(Projection.of(alignment), carry.value)
    found = carry_over(p, p_target, ahead.ahead(position, ws, after))
    for donor in range(case.donors):
        for n in range(2):
            looked = {
                w: {"own": after[donor, k].double().numpy(), "first": after[0, k].numpy()}
                for k, (at, w) in enumerate(zip(position, ws, strict=True))
                if at == n
            }
            p_n, target_n = p[donor, n].double().numpy(), p_target[n].double().numpy()
            expected = written_out(ahead, alignment, carry, p_n, target_n, looked)
            np.testing.assert_allclose(found[donor, n].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("w", WORDS)
def test_the_candidates_are_what_a_text_may_begin_with_that_goes_on_with_both_tokens(tiny, w):
    """Among them what the target's tokenizer cuts first, and all that it may run on in; no weight is 0."""
    source, target = tiny["source"], tiny["target"]
    ahead = LookAhead(with_columns(tiny, {}), source, target)
    for v, more in enumerate(source.token_bytes):
        text = w + more
        found = ahead.candidates(source.canonical[w], v)
        spelled = [target.token_bytes[y] for y in found.targets]
        first = target.segment(text)[0]
        assert first in found.targets
        assert all(data.startswith(text) or text.startswith(data) for data in spelled)
        assert len(set(spelled)) == len(spelled)
        assert min(*found.rows, *found.columns) > 0
        if len(target.token_bytes[first]) == len(text):
            assert {data for data in target.token_bytes if data.startswith(text)} <= set(spelled)
        if not text.isalpha() and len(w) < len(target.token_bytes[first]) < len(text):
            assert found.targets == (first,)


@given(columns=columns(), case=cases(), carry=st.sampled_from(CARRIES))
@settings(max_examples=60, deadline=None)
def test_what_is_carried_stays_a_distribution(tiny, columns, case, carry):
    alignment = with_columns(tiny, columns)
    p, after, p_target, position, ws = case.parts(tiny["source"])
    ahead = LookAhead(alignment, tiny["source"], tiny["target"]).ahead(position, ws, after)
    found = getattr(Projection.of(alignment), carry.value)(p, p_target, ahead)
    assert found.isfinite().all()
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(case.donors, 2), atol=1e-4, rtol=0)


@given(case=cases(), carry=st.sampled_from(CARRIES))
@settings(max_examples=30, deadline=None)
def test_a_position_where_nothing_was_looked_behind_is_carried_as_ever(tiny, case, carry):
    alignment = with_columns(tiny, {})
    case = dataclasses.replace(case, looked=tuple({(0, word) for _, word in case.looked}))
    p, after, p_target, position, ws = case.parts(tiny["source"])
    carry_over = getattr(Projection.of(alignment), carry.value)
    ahead = LookAhead(alignment, tiny["source"], tiny["target"]).ahead(position, ws, after)
    torch.testing.assert_close(carry_over(p, p_target, ahead)[:, 1], carry_over(p, p_target)[:, 1])


@pytest.mark.parametrize("carry", CARRIES)
def test_by_hand_what_follows_decides_between_longer_and_shorter_tokens(tiny, carry):
    """Behind "t" the source says "he" or "z": so it is "the" or "t", and "th" gets nothing, whatever the carry has."""
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, {b"t": {b"t": 0.2, b"th": 0.7, b"the": 0.1}})
    p, after = torch.zeros(1, 1, SIZES[0]), torch.zeros(1, 1, SIZES[0])
    p[..., source.canonical[b"t"]] = 1.0
    after[..., [source.canonical[b"he"], source.canonical[b"z"]]] = torch.tensor([0.25, 0.75])
    ahead = LookAhead(alignment, source, target).ahead([0], [source.canonical[b"t"]], after)
    p_target = torch.full((1, SIZES[1]), 1 / SIZES[1])
    found = getattr(Projection.of(alignment), carry.value)(p, p_target, ahead)[0, 0]
    own = float(found.sum() - (p_target * (1 - Projection.of(alignment).covered)).sum())
    for word, share in ((b"the", 0.25), (b"t", 0.75), (b"th", 0.0), (b"h", 0.0)):
        assert float(found[target.canonical[word]]) == pytest.approx(share * own, abs=1e-5)


@given(seed=st.integers(0, 999), sharpness=st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=40, deadline=None)
def test_looked_behind_is_what_has_most_at_stake(tiny, seed, sharpness):
    """Mass times the base's share of longer tokens that begin with it; the donor has most of its mass on words."""
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, {})
    random = torch.Generator().manual_seed(seed)
    words = [source.canonical[word] for word in WORDS]
    logits = torch.full((3, SIZES[0]), -3.0)
    logits[:, words] = torch.randn(3, len(words), generator=random) * sharpness
    p, p_target = logits.softmax(-1), (torch.randn(3, SIZES[1], generator=random) * sharpness).softmax(-1)
    image = Projection.of(alignment).image(p_target)
    found = LookAhead(alignment, source, target).choose(p, image, p_target)
    for n in range(3):
        stakes = []
        for w, data in enumerate(source.token_bytes):
            longer = [y for y, other in enumerate(target.token_bytes) if other.startswith(data) and other != data]
            share = float(p_target[n, longer].sum()) if longer else 0.0
            stakes.append(float(p[n, w]) * share / (share + float(image[n, w])))
        best = sorted(range(SIZES[0]), key=lambda w: -stakes[w])[:_MOST]
        sure = [w for w in best if stakes[w] > _WORTH + 1e-3]  # a difference of running sums is a little off
        assert found[n][: len(sure)] == sure
        assert all(stakes[w] > _WORTH - 1e-3 for w in found[n])
        assert len(found[n]) <= _MOST


# --- with models -------------------------------------------------------------------------------------------------


def encode(vocabulary, text):
    return torch.tensor([prompt_ids(vocabulary, text)])


TEXT = "Question: A baker sells 24 loaves a day. 🙂\nAnswer: 24*7=  cafés"


@pytest.mark.parametrize("carry", list(Carry))
def test_where_nothing_is_worth_looking_behind_it_is_healing_bit_for_bit(parts, monkeypatch, carry):
    ids = encode(parts.base.vocabulary, TEXT)
    with torch.no_grad():
        healed = parts.bridge(carry=carry, policy=Policy.HEAL)(ids).logits
        looked = parts.bridge(carry=carry, policy=Policy.LOOK_AHEAD)(ids).logits
        monkeypatch.setattr(look_ahead, "_WORTH", 2.0)
        assert torch.equal(parts.bridge(carry=carry, policy=Policy.LOOK_AHEAD)(ids).logits, healed)
    assert torch.equal(looked, healed) == carry.of_delta  # a change of logits has no mass that could be split


def heard(parts, policy):
    source, target = parts.pair, parts.base.vocabulary
    return Reading(source, set(source.models), Healer(source.vocabulary, target), policy, 1)


@pytest.mark.parametrize("policy", [Policy.RETOKENIZE, Policy.LOOK_AHEAD])
def test_a_token_that_was_looked_behind_is_not_read_again_when_the_text_goes_on_with_it(parts, policy, forwards):
    """Where the text has other covers, too, those are all that is read."""
    source, target, seen = parts.small.vocabulary, parts.base.vocabulary, forwards(parts.tuned.model)
    reading, free = heard(parts, policy), 0
    first, *others = source.encode("The quick brown fox jumps over the lazy dog, and 12 other foxes").ids.tolist()
    said = reading.read([[Token(703, source.token_bytes[first])]], 1)
    for w in others:
        said.look_behind([[w, source.canonical[b"z"]]])
        known = len(reading.forest.trees[0].tokens)
        seen.clear()
        said = reading.read([[Token(703, source.token_bytes[w])]], 1)
        assert sum(columns for _, columns in seen) == len(reading.forest.trees[0].tokens) - known
        free += not seen
    assert free == len(others) if policy is Policy.RETOKENIZE else free > len(others) / 3
    assert len(others) > 10
    assert target.token_bytes[703] is None


@torch.no_grad()
def test_what_follows_is_what_plain_forwards_say_after_every_cover_and_the_token(parts):
    """Of several covers the mean, by how probable each is with the token."""
    source, target = parts.small.vocabulary, parts.base.vocabulary
    reading, several = heard(parts, Policy.LOOK_AHEAD), 0
    seen: list[SimpleNamespace] = []
    capture = SimpleNamespace(ahead=lambda position, tokens, after: seen.append(SimpleNamespace(**locals())))
    for i in encode(target, TEXT)[0, 1:].tolist():
        said = reading.read([[Token(i, target.token_bytes[i])]], 1)
        (position,) = said.positions
        ws = [source.canonical[data] for data in (b"a", b" ", b"\x9f", b"1")]
        said.look_behind([ws])
        seen.clear()
        said.scores(slice(0, 1), ("tuned", "untuned"), capture, torch.device("cpu"))
        tree = reading.forest.trees[0]
        for name, model in (("tuned", parts.tuned.model), ("untuned", parts.small.model)):
            expected = {}
            for w in ws:
                shares, afters = [], []
                for one in position.asked:
                    token = source.canonical.get(one.pending + source.token_bytes[w])
                    if token is not None:
                        ids = [*(tree.tokens[node] for node in tree.ancestors(one.node)), token]
                        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
                        shares.append(sum(log_p[k - 1, ids[k]] for k in range(1, len(ids))))
                        afters.append(log_p[-1].exp())
                several += len(afters) > 1
                if afters:
                    expected[w] = torch.stack(shares).softmax(0) @ torch.stack(afters)
            assert [list(one.tokens) for one in seen] == ([list(expected)] if expected else [])
            for found, wanted in zip(seen[0].after[("tuned", "untuned").index(name)], expected.values(), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    assert several > 5
