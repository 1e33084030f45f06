"""Lookahead splits a source token's mass by the equation of its module, written out in loops, and never loses any.

And the prediction after a token of uncertain boundary decides the boundary weight.
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
    """Return an alignment of the tiny vocabularies with these columns, and all others by re-tokenization."""
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

    def tensors(self, source: Vocabulary) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int], list[int]]:
        p, after = self.draw(self.donors, 2, SIZES[0]), self.draw(self.donors, len(self.looked), SIZES[0])
        ws = [source.canonical[word] for _, word in self.looked]
        return p, after, self.draw(2, SIZES[1]), [position for position, _ in self.looked], ws


@st.composite
def cases(draw: st.DrawFn) -> Case:
    looked = draw(st.sets(st.tuples(st.integers(0, 1), st.sampled_from(WORDS)), min_size=1, max_size=5))
    sharpness = draw(st.sampled_from([0.5, 2.0, 5.0]))
    return Case(draw(st.integers(0, 999)), draw(st.integers(1, 2)), tuple(sorted(looked)), sharpness)


def projection_by(alignment: Alignment, method: ProjectionMethod):
    """Return a method of distributions as a function of p_S, p_T and a lookahead split."""
    projection = Projection.of(alignment)

    def project(p, p_target, split=None):
        if method is ProjectionMethod.STATIC:
            return static.Method().distributions(projection, p, p_target, split)
        base = BaseDistribution(p_target.log(), p_target)
        return informed.Method().project(projection, p, base, split).exp() * p_target

    return project


def projected_by_loops(lookahead, alignment, method, p, p_target, looked) -> np.ndarray:
    """Return the projected distribution of a model at a position; `looked` has the distributions after tokens w."""
    R, C = alignment.row_weights.toarray(), alignment.column_weights.toarray()
    mapped_source, mapped_target = C.sum(0) > 0, R.sum(1) > 0
    q = np.zeros(SIZES[1])
    for w in range(SIZES[0]):
        u = C[:, w] if method is ProjectionMethod.STATIC else p_target * R[:, w]
        left = p[w]
        if w in looked:
            for v in np.argsort(-looked[w]["first"], kind="stable")[: CONFIG.lookahead_followers]:
                found = lookahead.candidates(w, int(v))
                known = dict(zip(found.targets, found.column_weights, strict=True))
                if method is ProjectionMethod.INFORMED:
                    known = {y: row * p_target[y] for y, row in zip(found.targets, found.row_weights, strict=True)}
                for y, weight in known.items():
                    q[y] += p[w] * looked[w]["own"][v] * weight / sum(known.values())
                left -= p[w] * looked[w]["own"][v]
        if u.sum() > 0:
            q += left * u / u.sum()
    q *= p_target[mapped_target].sum() / p[mapped_source].sum()
    return q + np.where(mapped_target, 0, p_target)


@given(columns=columns(), case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(25))
def test_the_projected_distribution_is_the_sum_over_followers_of_the_equation(tiny, columns, case, method):
    """For one model and for two, each with its own predictions of followers; for any columns."""
    alignment = with_columns(tiny, columns)
    lookahead = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG)
    p, after, p_target, position, ws = case.tensors(tiny["source"])
    project = projection_by(alignment, method)
    found = project(p, p_target, lookahead.split(position, ws, after))
    for donor in range(case.donors):
        for n in range(2):
            looked = {
                w: {"own": after[donor, k].double().numpy(), "first": after[0, k].numpy()}
                for k, (at, w) in enumerate(zip(position, ws, strict=True))
                if at == n
            }
            p_n, target_n = p[donor, n].double().numpy(), p_target[n].double().numpy()
            expected = projected_by_loops(lookahead, alignment, method, p_n, target_n, looked)
            np.testing.assert_allclose(found[donor, n].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("w", WORDS)
def test_the_candidates_are_the_tokens_that_a_text_of_both_tokens_may_begin_with(tiny, w):
    """Among them what the target's tokenizer cuts first, and all that it may run on in; no weight is 0."""
    source, target = tiny["source"], tiny["target"]
    lookahead = Lookahead(with_columns(tiny, {}), source, target, CONFIG)
    for v, more in enumerate(source.token_bytes):
        text = w + more
        found = lookahead.candidates(source.canonical[w], v)
        spelled = [target.token_bytes[y] for y in found.targets]
        first = target.segment(text)[0]
        assert first in found.targets
        assert all(data.startswith(text) or text.startswith(data) for data in spelled)
        assert len(set(spelled)) == len(spelled)
        assert min(*found.row_weights, *found.column_weights) > 0
        if len(target.token_bytes[first]) == len(text):
            assert {data for data in target.token_bytes if data.startswith(text)} <= set(spelled)
        if not text.isalpha() and len(w) < len(target.token_bytes[first]) < len(text):
            assert found.targets == (first,)


@given(columns=columns(), case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(60))
def test_what_is_projected_stays_a_distribution(tiny, columns, case, method):
    alignment = with_columns(tiny, columns)
    p, after, p_target, position, ws = case.tensors(tiny["source"])
    split = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG).split(position, ws, after)
    found = projection_by(alignment, method)(p, p_target, split)
    assert found.isfinite().all()
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(case.donors, 2), atol=1e-4, rtol=0)


@given(case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(30))
def test_lookahead_gives_no_mass_to_a_source_token_that_is_unmapped(tiny, case, method):
    """Else the projected distribution would sum to more than 1."""
    whole = with_columns(tiny, {})
    counts = whole.counts.tolil()
    p, after, p_target, position, ws = case.tensors(tiny["source"])
    counts[:, ws] = 0
    alignment = dataclasses.replace(whole, counts=counts.tocsr())
    split = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG).split(position, ws, after)
    project = projection_by(alignment, method)
    torch.testing.assert_close(project(p, p_target, split), project(p, p_target), atol=1e-6, rtol=1e-4)


@given(case=cases(), method=st.sampled_from(METHOD_NAMES))
@settings(max_examples=examples(30))
def test_a_position_without_lookahead_is_projected_as_without_a_split(tiny, case, method):
    alignment = with_columns(tiny, {})
    case = dataclasses.replace(case, looked=tuple({(0, word) for _, word in case.looked}))
    p, after, p_target, position, ws = case.tensors(tiny["source"])
    project = projection_by(alignment, method)
    split = Lookahead(alignment, tiny["source"], tiny["target"], CONFIG).split(position, ws, after)
    torch.testing.assert_close(project(p, p_target, split)[:, 1], project(p, p_target)[:, 1])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_by_hand_what_follows_decides_between_longer_and_shorter_tokens(tiny, method):
    """After "t" the source predicts "he" or "z", so it is "the" or "t", and "th" gets nothing, whatever C holds."""
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, {b"t": {b"t": 0.2, b"th": 0.7, b"the": 0.1}})
    p, after = torch.zeros(1, 1, SIZES[0]), torch.zeros(1, 1, SIZES[0])
    p[..., source.canonical[b"t"]] = 1.0
    after[..., [source.canonical[b"he"], source.canonical[b"z"]]] = torch.tensor([0.25, 0.75])
    split = Lookahead(alignment, source, target, CONFIG).split([0], [source.canonical[b"t"]], after)
    p_target = torch.full((1, SIZES[1]), 1 / SIZES[1])
    found = projection_by(alignment, method)(p, p_target, split)[0, 0]
    own = float(found.sum() - (p_target * (1 - Projection.of(alignment).mapped_target)).sum())
    for word, share in ((b"the", 0.25), (b"t", 0.75), (b"th", 0.0), (b"h", 0.0)):
        assert float(found[target.canonical[word]]) == pytest.approx(share * own, abs=1e-5)


def beginnings(source: Vocabulary, target: Vocabulary, w: int) -> list[int]:
    """Return the four longest tokens at which a longer word, or run of spaces, that begins with w may be cut."""
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
def test_lookahead_selects_the_tokens_with_the_most_expected_bits(tiny, seed, sharpness, scarce):
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
    on_source = Projection.of(alignment).base_on_source_vocab(p_target)
    found = Lookahead(alignment, source, target, CONFIG).select(p, on_source, p_target)
    for n in range(3):
        expected_bits = np.zeros(SIZES[0])
        for w in np.argsort(-p[n].numpy(), kind="stable")[:16]:
            data, other = source.token_bytes[w], 0.0
            for y, text in enumerate(target.token_bytes):
                other += float(p_target[n, y]) if text.startswith(data) and text != data else 0.0
            for y in beginnings(source, target, w):
                other += float(p_target[n, y])
            expected_bits[w] = float(p[n, w]) * math.log2(1 + other / float(on_source[n, w]))
        best = sorted(range(SIZES[0]), key=lambda w: -expected_bits[w])[: CONFIG.lookahead_tokens]
        sure = [
            w for w in best if expected_bits[w] > CONFIG.min_expected_bits + 1e-3
        ]  # a difference of running sums is a little off
        assert found[n][: len(sure)] == sure
        assert all(expected_bits[w] > CONFIG.min_expected_bits - 1e-3 for w in found[n])
        assert len(found[n]) <= CONFIG.lookahead_tokens


def test_by_hand_expected_bits_count_longer_tokens_and_the_beginnings_of_a_word(tiny):
    """For "th": "the" is longer, and "t" a beginning at which the target may have cut a word that goes on."""
    source, target = tiny["source"], tiny["target"]
    lookahead = Lookahead(with_columns(tiny, {}), source, target, CONFIG)
    th, on_source = source.canonical[b"th"], torch.full((1, SIZES[0]), 0.1)
    for mass, base, worth in (
        (1.0, {b"the": 0.03}, True),  # log2(1.3) = 0.38
        (1.0, {b"the": 0.02}, False),  # log2(1.2) = 0.26
        (0.5, {b"the": 0.03}, False),
        (0.5, {b"the": 0.06}, True),  # 0.5 log2(1.6) = 0.34
        (1.0, {b"t": 0.03}, True),
        (1.0, {b"t": 0.01, b"the": 0.02}, True),
        (1.0, {b"th": 0.9, b"h": 0.5}, False),  # what is in R for "th" is in on_source; others do not count
    ):
        p, p_target = torch.zeros(1, SIZES[0]), torch.zeros(1, SIZES[1])
        p[0, th] = mass
        for word, share in base.items():
            p_target[0, target.canonical[word]] = share
        assert lookahead.select(p, on_source, p_target) == [[th] if worth else []]


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
def test_where_no_token_is_worth_a_lookahead_it_is_healing_bit_for_bit(parts, method):
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
def test_a_token_that_lookahead_has_read_is_not_read_again_when_the_text_continues_with_it(parts, policy, forwards):
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


def covers_from_scratch(stream, position, model) -> list[tuple[bytes, torch.Tensor, torch.Tensor, tuple[int, ...]]]:
    """Return each cover's pending bytes, log P, prediction after it and tokens, by a plain forward.

    The first is the encoding of the text as it stands; no control token may follow the others.
    """
    tree, found = stream.predictor.decoder.trees[0], []
    for cover in position.covers:
        ids = tuple(tree.tokens[node] for node in tree.ancestors(cover.node))
        log_p = plain(model, ids)
        follows = log_p[-1].clone()
        if not cover.can_end:
            follows[torch.from_numpy(stream.source.vocabulary.kinds == TokenKind.CONTROL)] = -math.inf
        found.append((cover.pending, sum(log_p[k - 1, ids[k]] for k in range(1, len(ids))), follows, ids))
    return found


def uncertain(source: Vocabulary, judge, covers, written: bytes) -> dict[int, float]:
    """Return the boundary weights of the likely tokens that are neither about 1 nor about 0."""
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
def test_predictions_after_a_token_are_those_of_plain_forwards_after_every_cover_and_the_token(parts, judge):
    """After with_several_covers covers it is the mean, weighted by the probability of each cover with the token.

    A follower of a token of uncertain boundary is weighted by the boundary weight of both together. The token gets the
    sum of these weights.
    """
    source, target = parts.small.vocabulary, parts.base.vocabulary
    models, target_judge = {"tuned": parts.tuned.model, "untuned": parts.small.model}, judge(target)
    stream, with_several_covers, changed = open_stream(parts, BoundaryPolicy.LOOKAHEAD), 0, dict.fromkeys(models, 0)
    seen: list[SimpleNamespace] = []
    capture = SimpleNamespace(split=lambda position, tokens, after: seen.append(SimpleNamespace(**locals())))
    pieces = [target.token_bytes[i] for i in encode(target, TEXT)[0, 1:].tolist()]
    for piece in [*pieces, *(bytes([byte]) for byte in b" The foxes jump")]:
        (position,) = stream.advance([[piece]], 1)
        covers = {name: covers_from_scratch(stream, position, model) for name, model in models.items()}
        counts = {name: uncertain(source, target_judge, covers[name], position.text_end) for name in models}
        ws = [source.canonical[data] for data in (b"a", b" ", b"\x9f", b"1")]
        ws = list(dict.fromkeys([*ws, *list(counts["tuned"])[:2], *list(counts["untuned"])[:2]]))
        first = stream.predictor.predict([position], tuple(models), torch.device("cpu"))
        before = {name: getattr(first.scores, name)[0].clone() for name in models}
        extended = stream.predictor.extend([position], [ws])
        seen.clear()
        now, _ = stream.predictor.resolve(first, extended, capture)
        for k, (name, model) in enumerate(models.items()):
            expected, changes = {}, torch.zeros(source.size)
            for w in ws:
                shares, afters = [], []
                for pending, weight, log_p, ids in covers[name]:
                    token = source.canonical.get(pending + source.token_bytes[w])
                    if token is not None:
                        shares.append(weight + log_p[token])
                        afters.append(plain(model, (*ids, token))[-1].exp())
                with_several_covers += len(afters) > 1
                if afters:
                    expected[w] = torch.stack(shares).softmax(0) @ torch.stack(afters)
                if afters and w in counts[name]:
                    arguments = (source, position.text_end, w, counts[name][w])
                    change, expected[w] = target_judge.decide(*arguments, expected[w])
                    changes[w] = math.log(change)
                    changed[name] += 1
            assert [list(split.tokens) for split in seen] == ([list(expected)] if expected else [])
            for found, after in zip(seen[0].after[k], expected.values(), strict=True):
                torch.testing.assert_close(found, after.float(), atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(getattr(now, name)[0], before[name] + changes, atol=1e-2, rtol=1e-3)
    assert with_several_covers > 5
    assert min(changed.values()) > 5


@pytest.mark.parametrize("names", [("tuned",), ("tuned", "untuned")])
def test_by_hand_an_uncertain_boundary_is_decided_by_what_follows_the_token(tiny, bigram, names):
    """The target would not have ended "zh" before half an "é": it has a token of "h" and the first half.

    But before a whole "é" it does, which the tuned model predicts. For the untuned model the half has too little mass
    to be judged by itself, so it has weight 1 as words do, and nothing changes.
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
    assert {cover.pending for cover in position.covers} == {b"", b"h"}
    first = stream.predictor.predict([position], names, torch.device("cpu"))

    def shares(scores) -> list[list[float]]:
        return [getattr(scores, name)[0].softmax(-1)[[of[half], of[b"e"], of[b"q"]]].tolist() for name in names]

    # P of the half 0.5 * 0.4, which counts 0.001; of "e" 0.5 * 0.1 and 0.25 for "he"; of "q" 0.5 * 0.5.
    before = [mass / 0.5502 for mass in (0.0002, 0.3, 0.25)]
    as_it_is = [mass / 0.75 for mass in (0.00025, 0.3, 0.44975)]
    expected = {"tuned": before, "untuned": as_it_is}
    assert shares(first.scores) == [pytest.approx(expected[name], rel=1e-3) for name in names]
    assert first.uncertain_tokens == {0: [of[half]]}
    extended = stream.predictor.extend([position], [first.uncertain_tokens[0]])
    # The half and the other one count 1 together, the half and a space 0.001 still.
    weight = 0.6 * 1 + 0.4 * 0.001
    after = [mass / (0.55 + 0.2 * weight) for mass in (0.2 * weight, 0.3, 0.25)]
    expected = {"tuned": after, "untuned": as_it_is}
    for _ in range(2):  # also the second time
        assert shares(stream.predictor.resolve(first, extended, capture)[0]) == [
            pytest.approx(expected[name], rel=1e-3) for name in names
        ]
        position, tokens, follows = seen[-1]
        assert (position, tokens) == ([0], [of[half]])
        assert follows.shape == (len(names), 1, SIZES[0])
        follows = follows[:, 0, [of[other], of[b" "]]].tolist()
        assert follows[0] == pytest.approx([0.6 / weight, 0.0004 / weight], rel=1e-3)
        assert follows[1:] == [pytest.approx([0.2, 0.8], rel=1e-3)] * (len(names) - 1)
    expected = {"tuned": before, "untuned": as_it_is}
    assert shares(first.scores) == [pytest.approx(expected[name], rel=1e-3) for name in names]  # and changed nothing


@pytest.mark.real
def test_white_space_is_cut_as_in_front_of_a_word_which_takes_the_last_space():
    source, target = resolve_vocabulary("gemma-3-270m"), resolve_vocabulary("smollm2-135m-instruct")
    lookahead = Lookahead(align(source, target, method="identical-bytes", cache=False), source, target, CONFIG)
    found = lookahead.candidates(source.canonical[b"\n"], source.canonical[b"    "])
    rows = {target.token_bytes[y]: row for y, row in zip(found.targets, found.row_weights, strict=True)}
    assert rows[b"\n   "] == 1
    assert rows[b"\n    "] < 1
