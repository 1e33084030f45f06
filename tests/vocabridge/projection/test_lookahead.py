"""Lookahead splits a source token's mass by the equation of its module, written out in loops, and never loses any.

And what is said behind a token that the target may or may not have ended its last one before decides that.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Alignment, TokenKind, Vocabulary, align
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import resolve_vocabulary
from vocabridge.models.prompts import prompt_ids
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.methods import METHODS, informed, static
from vocabridge.projection.methods.base import BaseDistribution
from vocabridge.projection.projection import Projection
from vocabridge.projection.source_stream import SourceStream
from vocabridge.projection.token_healing import TokenHealer

CONFIG = BoundaryConfig()
SIZES = (265, 263)
WORDS = [b"t", b"th", b" t", b" ", b"h", b"he", b"\xc3", "é".encode(), b"z", b" the"]
METHOD_NAMES = [ProjectionMethod.STATIC, ProjectionMethod.INFORMED]


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


def projection_by(alignment: Alignment, method: ProjectionMethod):
    """A method of distributions as a function of p_S, p_T and what was looked behind."""
    projection = Projection.of(alignment)

    def project(p, p_target, split=None):
        if method is ProjectionMethod.STATIC:
            return static.Method().distributions(projection, p, p_target, split)
        base = BaseDistribution(p_target.log(), p_target)
        return informed.Method().project(projection, p, base, split).exp() * p_target

    return project


def written_out(ahead, alignment, method, p, p_target, looked) -> np.ndarray:
    """The projected distribution of one donor at one position; `looked` has what follows each w looked behind."""
    R, C = alignment.row_weights.toarray(), alignment.column_weights.toarray()
    speaking, covered = C.sum(0) > 0, R.sum(1) > 0
    q = np.zeros(SIZES[1])
    for w in range(SIZES[0]):
        u = C[:, w] if method is ProjectionMethod.STATIC else p_target * R[:, w]
        left = p[w]
        if w in looked:
            for v in np.argsort(-looked[w]["first"], kind="stable")[: CONFIG.lookahead_followers]:
                found = ahead.candidates(w, int(v))
                known = dict(zip(found.targets, found.columns, strict=True))
                if method is ProjectionMethod.INFORMED:
                    known = {y: row * p_target[y] for y, row in zip(found.targets, found.rows, strict=True)}
                for y, weight in known.items():
                    q[y] += p[w] * looked[w]["own"][v] * weight / sum(known.values())
                left -= p[w] * looked[w]["own"][v]
        if u.sum() > 0:
            q += left * u / u.sum()
    q *= p_target[covered].sum() / p[speaking].sum()
    return q + np.where(covered, 0, p_target)


@given(columns=columns(), case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(25))
def test_it_is_the_sum_over_what_may_follow_that_the_equation_says(tiny, columns, case, method):
    """For one donor and for two, whose own say on what follows is taken; for any columns."""
    alignment = with_columns(tiny, columns)
    ahead = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG)
    p, after, p_target, position, ws = case.parts(tiny["source"])
    project = projection_by(alignment, method)
    found = project(p, p_target, ahead.split(position, ws, after))
    for donor in range(case.donors):
        for n in range(2):
            looked = {
                w: {"own": after[donor, k].double().numpy(), "first": after[0, k].numpy()}
                for k, (at, w) in enumerate(zip(position, ws, strict=True))
                if at == n
            }
            p_n, target_n = p[donor, n].double().numpy(), p_target[n].double().numpy()
            expected = written_out(ahead, alignment, method, p_n, target_n, looked)
            np.testing.assert_allclose(found[donor, n].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("w", WORDS)
def test_the_candidates_are_what_a_text_may_begin_with_that_goes_on_with_both_tokens(tiny, w):
    """Among them what the target's tokenizer cuts first, and all that it may run on in; no weight is 0."""
    source, target = tiny["source"], tiny["target"]
    ahead = Lookahead(with_columns(tiny, {}), source, target, CONFIG)
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


@given(columns=columns(), case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(60))
def test_what_is_projected_stays_a_distribution(tiny, columns, case, method):
    alignment = with_columns(tiny, columns)
    p, after, p_target, position, ws = case.parts(tiny["source"])
    ahead = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG).split(position, ws, after)
    found = projection_by(alignment, method)(p, p_target, ahead)
    assert found.isfinite().all()
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(case.donors, 2), atol=1e-4, rtol=0)


@given(case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(30))
def test_a_token_that_speaks_for_no_target_token_gets_no_say_by_being_looked_behind(tiny, case, method):
    """Else what is projected would have more than all mass."""
    whole = with_columns(tiny, {})
    counts = whole.counts.tolil()
    p, after, p_target, position, ws = case.parts(tiny["source"])
    counts[:, ws] = 0
    alignment = dataclasses.replace(whole, counts=counts.tocsr())
    ahead = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG).split(position, ws, after)
    project = projection_by(alignment, method)
    torch.testing.assert_close(project(p, p_target, ahead), project(p, p_target), atol=1e-6, rtol=1e-4)


@given(case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(30))
def test_a_position_where_nothing_was_looked_behind_is_projected_as_ever(tiny, case, method):
    alignment = with_columns(tiny, {})
    case = dataclasses.replace(case, looked=tuple({(0, word) for _, word in case.looked}))
    p, after, p_target, position, ws = case.parts(tiny["source"])
    project = projection_by(alignment, method)
    ahead = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG).split(position, ws, after)
    torch.testing.assert_close(project(p, p_target, ahead)[:, 1], project(p, p_target)[:, 1])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_by_hand_what_follows_decides_between_longer_and_shorter_tokens(tiny, method):
    """Behind "t" the source says "he" or "z": so it is "the" or "t", and "th" gets nothing, whatever the method has."""
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, {b"t": {b"t": 0.2, b"th": 0.7, b"the": 0.1}})
    p, after = torch.zeros(1, 1, SIZES[0]), torch.zeros(1, 1, SIZES[0])
    p[..., source.canonical[b"t"]] = 1.0
    after[..., [source.canonical[b"he"], source.canonical[b"z"]]] = torch.tensor([0.25, 0.75])
    ahead = Lookahead(alignment, source, target, CONFIG).split([0], [source.canonical[b"t"]], after)
    p_target = torch.full((1, SIZES[1]), 1 / SIZES[1])
    found = projection_by(alignment, method)(p, p_target, ahead)[0, 0]
    own = float(found.sum() - (p_target * (1 - Projection.of(alignment).mapped_target)).sum())
    for word, share in ((b"the", 0.25), (b"t", 0.75), (b"th", 0.0), (b"h", 0.0)):
        assert float(found[target.canonical[word]]) == pytest.approx(share * own, abs=1e-5)


def beginnings(source: Vocabulary, target: Vocabulary, w: int) -> list[int]:
    """What a word, or a run of spaces, that goes on behind w may begin with: the four longest, not w's own first."""
    data, found = source.token_bytes[w], []
    word = data and (data[-1:].isalpha() or data[-1] >= 0x80)
    if not data or source.canonical[data] != w or not (word or data.isspace()):
        return []
    for size in range(len(data) - 1, 0, -1):
        for y, other in enumerate(target.token_bytes):
            is_one = other == data[:size] and target.canonical[other] == y and (other.strip() or data.isspace())
            if is_one and y != target.segment(data)[0]:
                found.append(y)
    return found[:4]


@given(seed=st.integers(0, 999), sharpness=st.sampled_from([0.5, 1.0, 2.0]), scarce=st.sampled_from([0.0, -6.0]))
@settings(max_examples=examples(40))
def test_looked_behind_is_what_has_most_at_stake(tiny, seed, sharpness, scarce):
    """In bits: p(w) log2(1 + what the base gives to longer and shorter tokens / what it gives to those of w).

    The donor has most of its mass on words, and the base sometimes little on the tokens that are as long as a word.
    """
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, {})
    random = torch.Generator().manual_seed(seed)
    words = [source.canonical[word] for word in WORDS]
    logits = torch.full((3, SIZES[0]), -3.0)
    logits[:, words] = torch.randn(3, len(words), generator=random) * sharpness
    base = torch.randn(3, SIZES[1], generator=random) * sharpness
    base[:, [target.canonical[word] for word in WORDS if word in target.canonical]] += scarce
    p, p_target = logits.softmax(-1), base.softmax(-1)
    image = Projection.of(alignment).base_on_source_vocab(p_target)
    found = Lookahead(alignment, source, target, CONFIG).select(p, image, p_target)
    for n in range(3):
        stakes = np.zeros(SIZES[0])
        for w in np.argsort(-p[n].numpy(), kind="stable")[:16]:
            data, other = source.token_bytes[w], 0.0
            for y, text in enumerate(target.token_bytes):
                other += float(p_target[n, y]) if text.startswith(data) and text != data else 0.0
            for y in beginnings(source, target, w):
                other += float(p_target[n, y])
            stakes[w] = float(p[n, w]) * math.log2(1 + other / float(image[n, w]))
        best = sorted(range(SIZES[0]), key=lambda w: -stakes[w])[: CONFIG.lookahead_tokens]
        sure = [
            w for w in best if stakes[w] > CONFIG.min_expected_bits + 1e-3
        ]  # a difference of running sums is a little off
        assert found[n][: len(sure)] == sure
        assert all(stakes[w] > CONFIG.min_expected_bits - 1e-3 for w in found[n])
        assert len(found[n]) <= CONFIG.lookahead_tokens


def test_by_hand_at_stake_are_longer_tokens_and_the_beginnings_of_a_word(tiny):
    """For "th": "the" is longer, and "t" a beginning at which the target may have cut a word that goes on."""
    source, target = tiny["source"], tiny["target"]
    ahead = Lookahead(with_columns(tiny, {}), source, target, CONFIG)
    th, image = source.canonical[b"th"], torch.full((1, SIZES[0]), 0.1)
    for mass, base, worth in (
        (1.0, {b"the": 0.03}, True),  # log2(1.3) = 0.38
        (1.0, {b"the": 0.02}, False),  # log2(1.2) = 0.26
        (0.5, {b"the": 0.03}, False),
        (0.5, {b"the": 0.06}, True),  # 0.5 log2(1.6) = 0.34
        (1.0, {b"t": 0.03}, True),
        (1.0, {b"t": 0.01, b"the": 0.02}, True),
        (1.0, {b"th": 0.9, b"h": 0.5}, False),  # what is in R for "th" is in the image; others say nothing
    ):
        p, p_target = torch.zeros(1, SIZES[0]), torch.zeros(1, SIZES[1])
        p[0, th] = mass
        for word, share in base.items():
            p_target[0, target.canonical[word]] = share
        assert ahead.select(p, image, p_target) == [[th] if worth else []]


@pytest.mark.parametrize("kind", ["sentencepiece", "no_safe_cuts"])
def test_the_beginnings_of_the_words_of_trained_vocabularies(vocabularies, kind):
    source, target = vocabularies["no_safe_cuts"], vocabularies[kind]
    alignment = align(source, target, method="retokenize", cache=False)
    found, sizes = Lookahead(alignment, source, target, CONFIG).prefixes.tolist(), set()
    for w in range(source.size):
        expected = beginnings(source, target, w)
        assert [y for y in found[w] if y >= 0] == expected
        sizes.add(len(expected))
    assert sizes >= {0, 1, 2, 3, 4}


# --- with models -------------------------------------------------------------------------------------------------


def encode(vocabulary, text):
    return torch.tensor([prompt_ids(vocabulary, text)])


TEXT = "Question: A baker sells 24 loaves a day. 🙂\nAnswer: 24*7=  cafés"


@pytest.mark.parametrize("method", list(ProjectionMethod))
def test_where_nothing_is_worth_looking_behind_it_is_healing_bit_for_bit(parts, method):
    ids = encode(parts.base.vocabulary, TEXT)
    with torch.no_grad():
        healed = parts.bridge(method=method, policy=BoundaryPolicy.HEAL)(ids).logits
        looked = parts.bridge(method=method, policy=BoundaryPolicy.LOOKAHEAD)(ids).logits
        never = BoundaryConfig(min_expected_bits=1e9, uncertain_mass=1e9)
        bridge = parts.bridge(method=method, policy=BoundaryPolicy.LOOKAHEAD, boundary_config=never)
        assert torch.equal(bridge(ids).logits, healed)
    assert (
        torch.equal(looked, healed) == METHODS[method].of_logit_delta
    )  # a change of logits has no mass that could be split


def open_stream(parts, policy):
    source, target = parts.pair, parts.base.vocabulary
    return SourceStream(source, set(source.models), TokenHealer(source.vocabulary, target, CONFIG), policy, 1)


@pytest.mark.parametrize("policy", [BoundaryPolicy.AS_IS, BoundaryPolicy.LOOKAHEAD])
def test_a_token_that_was_looked_behind_is_not_read_again_when_the_text_goes_on_with_it(parts, policy, forwards):
    """Where the text has other covers, too, those are all that is read."""
    source, target, seen = parts.small.vocabulary, parts.base.vocabulary, forwards(parts.tuned.model)
    stream, free = open_stream(parts, policy), 0
    decoder = stream.predictor.decoder
    first, *others = source.encode("The quick brown fox jumps over the lazy dog, and 12 other foxes").ids.tolist()
    positions = stream.advance([[source.token_bytes[first]]], 1)
    for w in others:
        stream.predictor.extend(positions, [[w, source.canonical[b"z"]]])
        known = len(decoder.trees[0].tokens)
        seen.clear()
        positions = stream.advance([[source.token_bytes[w]]], 1)
        assert sum(columns for _, columns in seen) == len(decoder.trees[0].tokens) - known
        free += not seen
    assert free == len(others) if policy is BoundaryPolicy.AS_IS else free > len(others) / 3
    assert len(others) > 10
    assert target.token_bytes[703] is None


@torch.no_grad()
def plain(model, ids: tuple[int, ...]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def covers_alone(stream, position, model) -> list[tuple[bytes, torch.Tensor, torch.Tensor, tuple[int, ...]]]:
    """Of each cover what is pending, log P, what is said after it, and its tokens, by a plain forward.

    The first is the encoding of the text as it stands; behind the others no control token may follow.
    """
    tree, found = stream.predictor.decoder.trees[0], []
    for one in position.covers:
        ids = tuple(tree.tokens[node] for node in tree.ancestors(one.node))
        log_p = plain(model, ids)
        follows = log_p[-1].clone()
        if not one.can_end:
            follows[torch.from_numpy(stream.source.vocabulary.kinds == TokenKind.CONTROL)] = -math.inf
        found.append((one.pending, sum(log_p[k - 1, ids[k]] for k in range(1, len(ids))), follows, ids))
    return found


def unsure(source: Vocabulary, judge, covers, written: bytes) -> dict[int, float]:
    """What the likely tokens count, where that is neither 1 nor next to nothing."""
    if len(covers) == 1 and not covers[0][0]:
        return {}
    mass = torch.zeros(source.size, dtype=torch.float64)
    highest = max(weight for _, weight, _, _ in covers)
    for pending, weight, log_p, _ in covers:
        arriving = (weight - highest + log_p).exp()
        for data, w in source.canonical.items():
            if pending and data.startswith(pending) and data != pending:
                rest = data[len(pending) :]
                mass[source.canonical[rest] if rest in source.canonical else source.segment(rest)[0]] += arriving[w]
        mass += 0 if pending else arriving
    _, counts, _ = judge.weights(source, written, mass.numpy())
    return {w: count for w, count in counts.items() if 1e-6 < count < 0.99}


@torch.no_grad()
def test_what_follows_is_what_plain_forwards_say_after_every_cover_and_the_token(parts, judge):
    """Of several covers the mean, by how probable each is with the token.

    Of a token that the target may or may not have ended its last one before, what follows it counts as much as both
    together; and the token as much as all that may follow.
    """
    source, target = parts.small.vocabulary, parts.base.vocabulary
    models, one_judge = {"tuned": parts.tuned.model, "untuned": parts.small.model}, judge(target)
    stream, several, changed = open_stream(parts, BoundaryPolicy.LOOKAHEAD), 0, dict.fromkeys(models, 0)
    seen: list[SimpleNamespace] = []
    capture = SimpleNamespace(split=lambda position, tokens, after: seen.append(SimpleNamespace(**locals())))
    pieces = [target.token_bytes[i] for i in encode(target, TEXT)[0, 1:].tolist()]
    for piece in [*pieces, *(bytes([byte]) for byte in b" The foxes jump")]:
        (position,) = stream.advance([[piece]], 1)
        covers = {name: covers_alone(stream, position, model) for name, model in models.items()}
        counts = {name: unsure(source, one_judge, covers[name], position.text_end) for name in models}
        ws = [source.canonical[data] for data in (b"a", b" ", b"\x9f", b"1")]
        ws = list(dict.fromkeys([*ws, *list(counts["tuned"])[:2], *list(counts["untuned"])[:2]]))
        first = stream.predictor.predict([position], tuple(models), torch.device("cpu"))
        before = {name: getattr(first.scores, name)[0].clone() for name in models}
        behind = stream.predictor.extend([position], [ws])
        seen.clear()
        now, _ = stream.predictor.resolve(first, behind, capture)
        for k, (name, model) in enumerate(models.items()):
            expected, changes = {}, torch.zeros(source.size)
            for w in ws:
                shares, afters = [], []
                for pending, weight, log_p, ids in covers[name]:
                    token = source.canonical.get(pending + source.token_bytes[w])
                    if token is not None:
                        shares.append(weight + log_p[token])
                        afters.append(plain(model, (*ids, token))[-1].exp())
                several += len(afters) > 1
                if afters:
                    expected[w] = torch.stack(shares).softmax(0) @ torch.stack(afters)
                if afters and w in counts[name]:
                    arguments = (source, position.text_end, w, counts[name][w])
                    change, expected[w] = one_judge.decide(*arguments, expected[w])
                    changes[w] = math.log(change)
                    changed[name] += 1
            assert [list(one.tokens) for one in seen] == ([list(expected)] if expected else [])
            for found, after in zip(seen[0].after[k], expected.values(), strict=True):
                torch.testing.assert_close(found, after.float(), atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(getattr(now, name)[0], before[name] + changes, atol=1e-2, rtol=1e-3)
    assert several > 5
    assert min(changed.values()) > 5


@pytest.mark.parametrize("wanted", [("tuned",), ("tuned", "untuned")])
def test_by_hand_an_unsure_token_is_decided_by_what_follows_it(tiny, bigram, wanted):
    """The target would not have ended "zh" before half an "é": it has a token of "h" and the first half.

    But before a whole "é" it does, and that is what the tuned donor means. For the untuned one the half has too little
    mass to be judged by itself, so it counts 1 as words do, and nothing is changed.
    """
    source, target = tiny["source"], tiny["target"]
    z, half, other = {b"h": 0.5, b"he": 0.25, b"q": 0.25}, b"\xc3", b"\xa9"
    tuned = bigram(source, {b"z": z, b"h": {half: 0.4, b"e": 0.1, b"q": 0.5}, half: {other: 0.6, b" ": 0.4}})
    untuned = bigram(source, {b"z": z, b"h": {half: 0.0005, b"e": 0.1, b"q": 0.8995}, half: {other: 0.2, b" ": 0.8}})
    of = source.canonical
    healer = TokenHealer(source, target, CONFIG)
    stream = SourceStream(ExpertPair(tuned, untuned), {"tuned", "untuned"}, healer, BoundaryPolicy.LOOKAHEAD, 1)
    (position,) = stream.advance([[b"z", b"h"]], 1)
    seen = []
    capture = SimpleNamespace(split=lambda position, tokens, after: seen.append((position, tokens, after)))
    assert position.text_end == b"zh"
    assert {one.pending for one in position.covers} == {b"", b"h"}
    first = stream.predictor.predict([position], wanted, torch.device("cpu"))

    def shares(scores) -> list[list[float]]:
        return [getattr(scores, name)[0].softmax(-1)[[of[half], of[b"e"], of[b"q"]]].tolist() for name in wanted]

    # P of the half 0.5 * 0.4, which counts 0.001; of "e" 0.5 * 0.1 and 0.25 for "he"; of "q" 0.5 * 0.5.
    before = [mass / 0.5502 for mass in (0.0002, 0.3, 0.25)]
    as_it_is = [mass / 0.75 for mass in (0.00025, 0.3, 0.44975)]
    expected = {"tuned": before, "untuned": as_it_is}
    assert shares(first.scores) == [pytest.approx(expected[name], rel=1e-3) for name in wanted]
    assert first.uncertain_tokens == {0: [of[half]]}
    behind = stream.predictor.extend([position], [first.uncertain_tokens[0]])
    # The half and the other one count 1 together, the half and a space 0.001 still.
    counted = 0.6 * 1 + 0.4 * 0.001
    after = [mass / (0.55 + 0.2 * counted) for mass in (0.2 * counted, 0.3, 0.25)]
    expected = {"tuned": after, "untuned": as_it_is}
    for _ in range(2):  # also when asked again
        assert shares(stream.predictor.resolve(first, behind, capture)[0]) == [
            pytest.approx(expected[name], rel=1e-3) for name in wanted
        ]
        position, tokens, follows = seen[-1]
        assert (position, tokens) == ([0], [of[half]])
        assert follows.shape == (len(wanted), 1, SIZES[0])
        follows = follows[:, 0, [of[other], of[b" "]]].tolist()
        assert follows[0] == pytest.approx([0.6 / counted, 0.0004 / counted], rel=1e-3)
        assert follows[1:] == [pytest.approx([0.2, 0.8], rel=1e-3)] * (len(wanted) - 1)
    expected = {"tuned": before, "untuned": as_it_is}
    assert shares(first.scores) == [pytest.approx(expected[name], rel=1e-3) for name in wanted]  # and changed nothing


@pytest.mark.real
def test_white_space_is_cut_as_in_front_of_a_word_which_takes_the_last_space():
    source, target = resolve_vocabulary("gemma-3-270m"), resolve_vocabulary("smollm2-135m-instruct")
    ahead = Lookahead(align(source, target, method="identical-bytes", cache=False), source, target, CONFIG)
    found = ahead.candidates(source.canonical[b"\n"], source.canonical[b"    "])
    rows = {target.token_bytes[y]: row for y, row in zip(found.targets, found.rows, strict=True)}
    assert rows[b"\n   "] == 1
    assert rows[b"\n    "] < 1
