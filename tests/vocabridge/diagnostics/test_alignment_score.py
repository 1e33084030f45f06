"""Scores equal those of plain loops over the text, are exact where nothing is lost, and add up."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from effort import examples
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from vocabridge.alignment import Alignment, Corpus, TokenClass, VocabridgeError, Vocabulary, VocabularyCard, align
from vocabridge.decoding.incremental_tokenizer import IncrementalTokenizer
from vocabridge.diagnostics.alignment_score import _FREQUENCY_SHARE, Cost, ProjectedCosts, Score, score
from vocabridge.diagnostics.token_spans import SpanRelation
from vocabridge.models.loading import LoadedModel, load_model, resolve_vocabulary
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.methods import static
from vocabridge.projection.projection import Projection
from vocabridge.projection.token_healing import HealedDistribution, TokenHealer
from vocabridge.utils.windows import windows

TEXTS = {
    "words": "A lazy dog sleeps, and the 12 brown foxes jump over 345 other dogs; quick words count.",
    "code": "def count(words):\n    return {\n        word: words.count(word)\n    }\n\n",
    "characters": "cafés 🙂🎉 🙃 東京は 漢字 naïve e\u0301 Привет",
    "spaces": "\n  a" + " " * 9 + "b\t\t c\n\n   d  ",
}

CONFIG = BoundaryConfig()


def random_model(vocabulary: Vocabulary, seed: int = 0) -> LoadedModel:
    """Return a tiny Llama as wide as the vocabulary."""
    config = LlamaConfig(
        vocab_size=vocabulary.size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LoadedModel("random", "", LlamaForCausalLM(config).eval(), vocabulary)


def frequencies(alignment: Alignment) -> np.ndarray:
    """Return the frequencies of the target tokens in an alignment, each counted once more."""
    counted = alignment.counts.toarray().sum(axis=1, dtype=np.float64) + 1
    return counted / counted.sum()


def projected_by(alignment: Alignment, p: np.ndarray) -> np.ndarray:
    """Return C @ p, scaled by the mass of mapped source tokens; an unmapped target token keeps its frequency."""
    C, frequency = alignment.column_weights.toarray().astype(np.float64), frequencies(alignment)
    covered = C.sum(axis=1) > 0
    return np.where(covered, C @ p / p[C.sum(axis=0) > 0].sum() * frequency[covered].sum(), frequency)


def bits_of(q: float, frequency: float) -> float:
    return -math.log2((1 - _FREQUENCY_SHARE) * q + _FREQUENCY_SHARE * frequency)


def alignment_of(counts, source: Vocabulary, target: Vocabulary) -> Alignment:
    cards = (VocabularyCard.of(source), VocabularyCard.of(target))
    return Alignment(sp.csr_array(counts, dtype=np.float32), *cards, "by hand", {})


@torch.no_grad()
def log_p_after(model: LoadedModel, ids: list[int]) -> np.ndarray:
    """Return natural log-probabilities after the bos token, if there is one, and after each of the ids."""
    bos_ids = [model.vocabulary.roles["bos"]] if model.vocabulary.add_bos_token else []
    return model.model(torch.tensor([bos_ids + ids])).logits[0].log_softmax(-1).double().numpy()


@pytest.fixture
def of_text(tmp_path):
    """Return a function that scores one text with one alignment."""

    def scored(model, target, alignment, text, policies=tuple(BoundaryPolicy)) -> Score:
        return score(model, target, {"": alignment}, corpus(text), policies)[""]

    def corpus(text) -> Corpus:
        path = tmp_path / "text.txt"
        path.write_bytes(text.encode())
        return Corpus.open([path])

    scored.corpus = corpus
    return scored


# --- where nothing is lost --------------------------------------------------------------------------------------


def test_with_the_same_vocabulary_on_both_sides_the_score_is_the_native_cost_but_for_the_share_of_the_frequencies(
    loaded, of_text
):
    model, text = loaded["source"], TEXTS["words"]
    vocabulary = model.vocabulary
    tokens, native, projected = 0, 0.0, 0.0
    for window in windows(of_text.corpus(text)):
        encoding = vocabulary.encode(window)
        ids, starts = encoding.ids.tolist(), encoding.starts.tolist()
        for i, start in enumerate(starts):  # the source cuts the text so far as it cuts the whole text
            assert vocabulary.encode(window[:start]).ids.tolist() == ids[:i]
        # The first token has nothing before it, and the second common boundary is where the next one starts.
        p = np.exp([log_p_after(model, ids)[i - 1, ids[i]] for i in range(1, len(ids))])
        tokens += len(ids) - 1
        native -= np.log2(p).sum()
        projected -= np.log2((1 - _FREQUENCY_SHARE) * p + _FREQUENCY_SHARE / vocabulary.size).sum()
    identity = alignment_of(sp.eye(vocabulary.size), vocabulary, vocabulary)
    overall = of_text(model, vocabulary, identity, text).policies[BoundaryPolicy.AS_IS].overall
    assert overall.tokens == tokens
    assert overall.native == pytest.approx(native, rel=1e-5)
    assert overall.projected == pytest.approx(projected, rel=1e-5)


def test_where_every_token_is_a_byte_healing_loses_nothing_inside_a_character_either(tiny, of_text):
    """Without healing the source is inactive there, and the frequencies cost 8 bits."""
    vocabulary, text = tiny["bytes"], TEXTS["characters"]
    model = random_model(vocabulary)
    tokens, inside, bits_inside, bits = 0, 0, 0.0, 0.0
    for window in windows(of_text.corpus(text)):
        log_p = log_p_after(model, list(window.encode()))
        for i, byte in enumerate(window.encode()[1:], start=1):
            cost = -math.log2((1 - _FREQUENCY_SHARE) * math.exp(log_p[i - 1, byte]) + _FREQUENCY_SHARE / 256)
            tokens, bits = tokens + 1, bits + cost
            if byte & 0xC0 == 0x80:
                inside, bits_inside = inside + 1, bits_inside + cost
    result = of_text(model, vocabulary, alignment_of(sp.eye(256), vocabulary, vocabulary), text)
    assert result.positions == result.common == tokens
    for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD):
        assert result.policies[policy].overall.projected == pytest.approx(bits, rel=1e-5)
        assert result.policies[policy].inactive == 0
    for policy in (BoundaryPolicy.AS_IS, BoundaryPolicy.SKIP):
        assert result.policies[policy].overall.projected == pytest.approx(bits - bits_inside + 8 * inside, rel=1e-5)
        assert result.policies[policy].inactive == inside


def test_an_unmapped_token_keeps_its_frequency_and_the_others_share_the_rest(tiny, of_text):
    """The alignment is the identity, with a count of 0 for "e" and of 100 for "o"."""
    vocabulary, text = tiny["bytes"], TEXTS["words"]
    model, e = random_model(vocabulary), ord("e")
    counts = np.ones(256)
    counts[e], counts[ord("o")] = 0, 100
    frequency = (counts + 1) / (counts + 1).sum()
    bits = 0.0
    for window in windows(of_text.corpus(text)):
        p = np.exp(log_p_after(model, list(window.encode())))
        for i, y in enumerate(window.encode()[1:]):
            q = frequency[e] if y == e else (1 - frequency[e]) * p[i, y] / (1 - p[i, e])
            bits += bits_of(q, frequency[y])
    diagonal = sp.csr_array(sp.diags_array(counts))
    diagonal.eliminate_zeros()
    for projected in of_text(model, vocabulary, alignment_of(diagonal, vocabulary, vocabulary), text).policies.values():
        assert projected.overall.projected == pytest.approx(bits, rel=1e-5)


# --- the same as plain loops ------------------------------------------------------------------------------------


@pytest.fixture(params=["there", "back", "bytes"])
def pair(request, parts, tiny) -> tuple[LoadedModel, Vocabulary, Alignment]:
    """Return a source without a bos token, one with it, or one of single bytes, four of which make up " the"."""
    if request.param == "bytes":
        source, target = tiny["bytes"], tiny["source"]
        return random_model(source), target, alignment_of(np.ones((target.size, source.size)), source, target)
    if request.param == "there":
        return parts.small, parts.base.vocabulary, parts.alignment
    back = align(parts.base.vocabulary, parts.small.vocabulary, method="retokenize", cache=False)
    return parts.base, parts.small.vocabulary, back


def scored_starts(source: Vocabulary, target: Vocabulary, window: str) -> list[int]:
    """Return where the target's tokens start, from the second common boundary on."""
    starts, source_starts = target.encode(window).starts.tolist(), source.encode(window).starts.tolist()
    common = set(starts[1:]) & set(source_starts) - {0, -1}
    return [start for start in starts if common and start >= min(common)]


@dataclasses.dataclass(frozen=True)
class Cover:
    """A cover of a text.

    Attributes:
        tokens: Its tokens.
        pending: The bytes of the text after them.
        log_p: The model's log-probabilities after each token, (tokens, |S|), from a forward of this cover alone.
        may_end: Whether it is the encoding of the text if that ends here.
    """

    tokens: tuple[int, ...]
    pending: bytes
    log_p: np.ndarray
    may_end: bool

    def weight(self, continuation: tuple[int, ...] = ()) -> float:
        """Return log P of the tokens after the first one, which all covers share."""
        tokens = self.tokens + continuation
        return sum(self.log_p[k - 1, token] for k, token in enumerate(tokens) if k)


class Loops:
    """A model's predictions before the target tokens of a text, with a plain forward for every cover."""

    def __init__(self, model: LoadedModel, target: Vocabulary, judge) -> None:
        self.model, self.source, self.target, self.judge = model, model.vocabulary, target, judge(target)
        self.healer = TokenHealer(model.vocabulary, target, CONFIG)
        self.log_p = functools.lru_cache(None)(self._log_p)

    @torch.no_grad()
    def _log_p(self, tokens: tuple[int, ...]) -> np.ndarray:
        return self.model.model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()

    def text_end(self, before: np.ndarray) -> bytes:
        """Return the end of the text that the base has generated so far."""
        return self.judge.end_of([self.target.token_bytes[i] for i in before.tolist()])

    def covers(self, text: bytes, text_end: bytes, *, healing: bool) -> list[Cover]:
        """Return the covers of a text; without healing only its encoding, or none inside a character."""
        tokenizer, covers = IncrementalTokenizer(self.source), []
        tokenizer.append(text)
        arguments = (CONFIG.tokens_taken_back, tuple(CONFIG.word_continuations)) if healing else ()
        for number, candidate in enumerate(tokenizer.cover_candidates(*arguments)):
            tokens = (*tokenizer.committed_ids, *candidate.ids)
            if tokens and (not candidate.pending or (healing and self.healer.can_cross(candidate.pending, text_end))):
                may_end = number == 0 and not candidate.pending
                covers.append(Cover(tokens, candidate.pending, self.log_p(tokens), may_end))
        without_pending = [cover.weight() for cover in covers if not cover.pending]
        if not without_pending or text_end[-1:].isspace():
            return covers
        least = max(without_pending) + math.log(0.01)
        return [cover for cover in covers if cover.may_end or cover.weight() > least]

    def healed(self, covers: list[Cover], text_end: bytes) -> HealedDistribution:
        """Return the healed distribution; with one cover, it is the model's own."""
        log_p = torch.from_numpy(np.stack([cover.log_p[-1] for cover in covers]))
        if len(covers) == 1 and not covers[0].pending:
            return HealedDistribution(log_p[:1].exp(), torch.zeros(1), [{}])
        weights = torch.tensor([cover.weight() for cover in covers])
        may_end = [[cover.may_end for cover in covers]]
        return self.healer.marginalize([[cover.pending for cover in covers]], may_end, weights, log_p, [text_end])

    def predict(self, policy: BoundaryPolicy, text: bytes, text_end: bytes) -> np.ndarray | None:
        """Return the source's distribution; None where it is inactive."""
        as_is, covers = (self.covers(text, text_end, healing=healing) for healing in (False, True))
        if policy is BoundaryPolicy.HEAL:
            return self.healed(covers, text_end).p[0].double().numpy() if covers else None
        if not as_is or (policy is BoundaryPolicy.SKIP and self.healed(covers, text_end).crossing_mass > 0.5):
            return None
        return np.exp(as_is[0].log_p[-1].astype(np.float64))

    @torch.no_grad()
    def look_ahead(self, lookahead: Lookahead, chosen: list[int], text: bytes, text_end: bytes):
        """Read after some tokens.

        Returns:
            The distribution, in which the weights of uncertain tokens are decided by what follows them; and how the
            mass of the chosen tokens is split, by the distribution after each, averaged over the covers that it can
            follow.
        """
        tokens, p_behind, covers = [], [], self.covers(text, text_end, healing=True)
        healed = self.healed(covers, text_end)
        p = healed.p[0].clone()
        for w in chosen:
            weights, by_cover = [], []
            for cover in covers:
                data = cover.pending + self.source.token_bytes[w]
                token = self.source.canonical.get(data) if cover.pending else w
                if token is not None:
                    weights.append(cover.weight((token,)))
                    by_cover.append(torch.from_numpy(self.log_p((*cover.tokens, token))[-1]).exp())
            if by_cover:
                tokens.append(w)
                p_behind.append(torch.tensor(weights).softmax(0) @ torch.stack(by_cover))
                if w in healed.boundary_weights[0]:
                    factor, p_behind[-1] = self.judge.decide(
                        self.source, text_end, w, healed.boundary_weights[0][w], p_behind[-1]
                    )
                    p[w] *= factor
        split = lookahead.split([0] * len(tokens), tokens, torch.stack(p_behind)[None]) if tokens else None
        return p / p.sum(), split


@pytest.mark.quick(4)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_score_is_that_of_forwards_of_each_cover_alone(pair, of_text, judge, text):
    model, target, alignment = pair
    source, loops, frequency = model.vocabulary, Loops(model, target, judge), frequencies(alignment)
    bits = {BoundaryPolicy.HEAL: 0.0, BoundaryPolicy.AS_IS: 0.0, BoundaryPolicy.SKIP: 0.0}
    inactive = dict.fromkeys(bits, 0)
    for window in windows(of_text.corpus(text)):
        data, encoding = window.encode(), target.encode(window)
        for start in scored_starts(source, target, window):
            i = encoding.starts.tolist().index(start)
            y, text_end = encoding.ids[i], loops.text_end(encoding.ids[:i])
            for policy in bits:
                p = loops.predict(policy, data[:start], text_end)
                inactive[policy] += p is None
                bits[policy] += bits_of(frequency[y] if p is None else projected_by(alignment, p)[y], frequency[y])
    result = of_text(model, target, alignment, text)
    for policy, total in bits.items():
        assert result.policies[policy].overall.projected == pytest.approx(total, rel=1e-4)
        assert result.policies[policy].inactive == inactive[policy]


@pytest.mark.quick(3)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_lookahead_reads_behind_uncertain_tokens_and_those_chosen_by_the_projection_without_it(
    pair, of_text, judge, text
):
    model, target, alignment = pair
    source, loops, frequency = model.vocabulary, Loops(model, target, judge), frequencies(alignment)
    projection, lookahead = Projection.of(alignment), Lookahead(alignment, source, target, CONFIG)
    fallback = torch.from_numpy(frequency).float()[None]
    bits, splits = 0.0, 0
    for window in windows(of_text.corpus(text)):
        data, encoding = window.encode(), target.encode(window)
        for start in scored_starts(source, target, window):
            i = encoding.starts.tolist().index(start)
            y, text_end = encoding.ids[i], loops.text_end(encoding.ids[:i])
            healed = loops.healed(loops.covers(data[:start], text_end, healing=True), text_end)
            p = healed.p / healed.p.sum()
            without = static.Method().distributions(projection, p[None], fallback)[0]
            (chosen,) = lookahead.select(p, projection.base_on_source_vocab(without), without)
            chosen = list(dict.fromkeys(loops.healer.uncertain_tokens(healed)[0] + chosen))
            p, split = loops.look_ahead(lookahead, chosen, data[:start], text_end)
            splits += split is not None
            bits += bits_of(
                float(static.Method().distributions(projection, p[None, None], fallback, split)[0, 0, y]), frequency[y]
            )
    result = of_text(model, target, alignment, text, (BoundaryPolicy.LOOKAHEAD,))
    assert result.policies[BoundaryPolicy.LOOKAHEAD].overall.projected == pytest.approx(bits, rel=1e-4)
    assert (splits > 0) == (source.name != "bytes")  # each single byte is aligned with all target tokens alike


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_native_cost_is_that_of_the_sources_own_tokens_from_the_second_common_boundary_on(pair, of_text, text):
    model, target, alignment = pair
    source = model.vocabulary
    positions, common, native, size = 0, 0, 0.0, 0
    for window in windows(of_text.corpus(text)):
        scored, encoding = scored_starts(source, target, window), source.encode(window)
        if not scored:
            continue
        positions += len(scored)
        common += len(set(scored) & set(encoding.starts.tolist()))
        size += len(window.encode()) - scored[0]
        log_p = log_p_after(model, encoding.ids.tolist())
        before = 0 if source.add_bos_token else 1
        source_starts = np.maximum.accumulate(encoding.starts)
        for i, (w, start) in enumerate(zip(encoding.ids.tolist(), source_starts.tolist(), strict=True)):
            native -= log_p[i - before, w] / math.log(2) if start >= scored[0] else 0.0
    result = of_text(model, target, alignment, text)
    assert (result.positions, result.common) == (positions, common)
    assert result.common_share == common / positions
    for projected in result.policies.values():
        assert projected.overall.native == pytest.approx(native, rel=1e-5)
        assert projected.overall.bytes == size


def test_by_hand_positions_common_boundaries_and_how_the_tokens_lie(tiny, of_text):
    """The first token is not scored; the target's third and fourth lie in one source token."""
    source, target, text = tiny["source"], tiny["target"], "   theé"
    ids = source.encode(text).ids.tolist()
    assert [source.token_bytes[i] for i in ids] == [b"  ", b" the", "é".encode()]
    assert [target.token_bytes[i] for i in target.encode(text).ids] == [b"  ", b" ", b"the", "é".encode()]
    model = random_model(source)
    alignment = align(source, target, method="retokenize", cache=False)
    result = of_text(model, target, alignment, text)
    assert (result.positions, result.common) == (3, 2)
    assert result.common_share == pytest.approx(2 / 3)
    assert result.relations == [SpanRelation.EQUAL, SpanRelation.SHORTER]
    assert result.classes == [TokenClass.WORDS, TokenClass.WHITESPACE]
    log_p = log_p_after(model, ids)
    of_the, of_e = (-log_p[i - 1, ids[i]] / math.log(2) for i in (1, 2))
    frequency, bits = frequencies(alignment), 0.0
    for before, y in ((b"  ", b" "), (b"   ", b"the"), (b"   the", "é".encode())):
        q = projected_by(alignment, np.exp(log_p_after(model, source.encode(before.decode()).ids.tolist())[-1]))
        bits += bits_of(q[target.canonical[y]], frequency[target.canonical[y]])
    assert source.encode("   ").ids.tolist() == [source.canonical[b"   "]]
    assert result.policies[BoundaryPolicy.AS_IS].overall.projected == pytest.approx(bits, rel=1e-5)
    for projected in result.policies.values():
        assert (projected.by_relation[SpanRelation.EQUAL].tokens, projected.by_relation[SpanRelation.EQUAL].bytes) == (
            1,
            2,
        )
        assert (
            projected.by_relation[SpanRelation.SHORTER].tokens,
            projected.by_relation[SpanRelation.SHORTER].bytes,
        ) == (2, 4)
        assert projected.by_relation[SpanRelation.EQUAL].native == pytest.approx(of_e, rel=1e-5)
        # Of the four bytes of " the", one is the space.
        assert projected.by_class[TokenClass.WHITESPACE].native == pytest.approx(of_the / 4, rel=1e-5)
        assert projected.by_class[TokenClass.WORDS].native == pytest.approx(of_e + of_the * 3 / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "sources", "relation"),
    [
        (1, 1, SpanRelation.EQUAL), (1, 2, SpanRelation.LONGER), (1, 9, SpanRelation.LONGER),
        (2, 1, SpanRelation.SHORTER), (3, 1, SpanRelation.SHORTER),
        (2, 2, SpanRelation.CROSSED), (2, 5, SpanRelation.CROSSED), (5, 2, SpanRelation.CROSSED),
    ],
)  # fmt: skip
def test_there_are_four_span_relations(targets, sources, relation):
    assert SpanRelation.of(targets, sources) is relation


# --- adding up --------------------------------------------------------------------------------------------------


def total(costs) -> Cost:
    summed = Cost()
    for cost in costs:
        summed.tokens += cost.tokens
        summed.bytes += cost.bytes
        summed.native += cost.native
        summed.projected += cost.projected
    return summed


def test_the_overall_cost_is_the_sum_over_the_classes_and_over_the_relations_for_every_policy(pair, of_text):
    model, target, alignment = pair
    result = of_text(model, target, alignment, "\n".join(TEXTS.values()))
    assert set(result.policies) == set(BoundaryPolicy)
    for projected in result.policies.values():
        assert projected.overall.tokens == result.positions
        for costs in (projected.by_class, projected.by_relation):
            assert dataclasses.asdict(total(costs.values())) == pytest.approx(dataclasses.asdict(projected.overall))


def test_the_text_is_the_sum_of_its_windows(parts, of_text):
    """Each line is a window, which the source reads by itself."""
    line = TEXTS["words"] * 16 + "\n"
    two, three = (of_text(parts.small, parts.base.vocabulary, parts.alignment, line * n) for n in (2, 3))
    assert 750 < len(line) < 1500
    assert three.positions * 2 == two.positions * 3
    for policy, projected in three.policies.items():
        assert projected.overall.projected * 2 == pytest.approx(two.policies[policy].overall.projected * 3)
        assert projected.inactive * 2 == two.policies[policy].inactive * 3


def test_alignments_scored_together_have_the_scores_that_each_has_alone(parts, of_text):
    model, target = parts.small, parts.base.vocabulary
    alignments = {"default": parts.alignment}
    for method in ("identical-bytes", "retokenize"):
        alignments[method] = align(model.vocabulary, target, method=method, cache=False)
    text = TEXTS["code"] + TEXTS["characters"]
    together = score(model, target, alignments, of_text.corpus(text))
    assert [result.method for result in together.values()] == list(alignments)
    for name, alignment in alignments.items():
        alone = of_text(model, target, alignment, text)
        assert (together[name].positions, together[name].common) == (alone.positions, alone.common)
        for policy, projected in together[name].policies.items():
            assert projected.inactive == alone.policies[policy].inactive
            for cost, cost_alone in (
                (projected.overall, alone.policies[policy].overall),
                *zip(projected.by_class.values(), alone.policies[policy].by_class.values(), strict=True),
                *zip(projected.by_relation.values(), alone.policies[policy].by_relation.values(), strict=True),
            ):
                assert dataclasses.asdict(cost) == pytest.approx(dataclasses.asdict(cost_alone), rel=1e-5)


@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_a_policy_has_the_same_costs_alone_as_among_all(parts, of_text, policy):
    arguments = (parts.small, parts.base.vocabulary, parts.alignment, TEXTS["code"])
    alone = of_text(*arguments, (policy,))
    assert list(alone.policies) == [policy]
    assert alone.policies[policy] == of_text(*arguments).policies[policy]


def test_lookahead_changes_nothing_where_no_target_token_is_longer_than_a_source_token(parts, tiny, of_text):
    target = tiny["bytes"]
    alignment = align(parts.small.vocabulary, target, method="retokenize", cache=False)
    result = of_text(parts.small, target, alignment, TEXTS["code"]).policies
    assert result[BoundaryPolicy.LOOKAHEAD].overall.projected == pytest.approx(
        result[BoundaryPolicy.HEAL].overall.projected, rel=1e-6
    )


@pytest.fixture(scope="module")
def random_models(vocabularies) -> dict[str, LoadedModel]:
    return {vocabulary.fingerprint: random_model(vocabulary) for vocabulary in vocabularies.values()}


FRAGMENTS = [
    "The quick brown fox", " fox", "a b", "12345", "x1", "é", "e\u0301", "Straße", "24*7=168", "_id", "'s",
    " ", "  ", "     ", "\t", "\n", "\n\n", " \n ", "\r\n", "\u00a0", "def count(words):\n    return", "\n    ",
    "東京は日本", "首", "한국", "мир", "🙂", "👩‍👩‍👧", "👍🏽", "🇩🇪", "▁", "Ġ", "<0x41>",
    "<|end|>", "<|begin|>", "<unk>",
]  # fmt: skip
fragments = st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5))


def test_a_first_token_is_not_scored_even_if_white_space_in_front_of_it_is_dropped(
    vocabularies, random_models, of_text
):
    """The first token of BERT's tokenizer starts at byte 1 here, where a token of the other starts, too."""
    source, target, text = vocabularies["no_safe_cuts"], vocabularies["wordpiece"], "\nThe fox"
    starts = target.encode(text).starts.tolist()
    assert starts[0] == 1
    assert 1 in source.encode(text).starts
    result = of_text(
        random_models[source.fingerprint], target, align(source, target, method="identical-bytes", cache=False), text
    )
    assert result.positions == len(scored_starts(source, target, text)) < len(starts)


@pytest.mark.quick(4)
@given(text=st.lists(fragments, max_size=12).map("".join))
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "wordpiece"])
def test_any_text_can_be_scored_between_any_two_tokenizers(
    any_vocabulary, vocabularies, random_models, of_text, kind, text
):
    """Some drop white space, change case, cannot spell a character, or match a special token in the text."""
    target = vocabularies[kind]
    alignment = align(any_vocabulary, target, method="identical-bytes", cache=False)
    text = "(The) fox, and " + text
    # A tokenizer that drops the space with which all tokens of the other begin has no boundary in common with it.
    assume(any(scored_starts(any_vocabulary, target, window) for window in windows(of_text.corpus(text))))
    result = of_text(random_models[any_vocabulary.fingerprint], target, alignment, text)
    for projected in result.policies.values():
        assert projected.overall.tokens == result.positions
        assert 0 < projected.overall.projected < 40 * result.positions
        assert math.isfinite(projected.overall.native)
        assert 0 <= projected.inactive <= result.positions


# --- errors and progress -------------------------------------------------------------------------------------------


def test_an_alignment_of_other_tokenizers_is_refused(parts, loaded, of_text):
    with pytest.raises(VocabridgeError, match="made for the source tokenizer"):
        of_text(loaded["target"], parts.base.vocabulary, parts.alignment, TEXTS["words"])
    with pytest.raises(VocabridgeError, match="made for the target tokenizer"):
        of_text(parts.small, parts.small.vocabulary, parts.alignment, TEXTS["words"])


@pytest.mark.parametrize("text", ["a", "The", " "])
def test_a_text_of_one_token_is_too_short(parts, of_text, text):
    with pytest.raises(VocabridgeError, match="too short to score"):
        of_text(parts.small, parts.base.vocabulary, parts.alignment, text)


def test_progress_is_reported_in_bytes_up_to_the_end(parts, of_text):
    reports = []
    corpus = of_text.corpus((TEXTS["words"] + "\n" + TEXTS["characters"]) * 40)
    alignments = {"": parts.alignment}
    target = parts.base.vocabulary
    score(
        parts.small,
        target,
        alignments,
        corpus,
        (BoundaryPolicy.AS_IS,),
        lambda done, all_bytes, _: reports.append((done, all_bytes)),
    )
    assert len(reports) > 1
    assert reports == sorted(reports)
    assert reports[-1] == (corpus.bytes, corpus.bytes)


def test_a_score_as_json_has_the_classes_and_relations_of_the_text_and_rates_derived_from_bits(parts, of_text):
    result = of_text(parts.small, parts.base.vocabulary, parts.alignment, TEXTS["code"])
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert list(document["policies"]) == ["skip", "as-is", "heal", "lookahead"]
    assert document["source"] == parts.small.vocabulary.name
    assert document["common_share"] == result.common / result.positions
    for projected in document["policies"].values():
        assert list(projected["by_class"]) == [c.label for c in result.classes]
        assert list(projected["by_relation"]) == [f.value for f in result.relations]
        overall = projected["overall"]
        assert overall["bits_per_byte"] == pytest.approx(overall["projected"] / overall["bytes"])
        assert overall["native_bits_per_byte"] == pytest.approx(overall["native"] / overall["bytes"])
        assert overall["loss"] == pytest.approx(overall["projected"] / overall["native"] - 1)


def test_a_cost_of_no_tokens_has_no_loss():
    empty = ProjectedCosts().overall
    assert (empty.bits_per_byte, empty.native_bits_per_byte) == (0, 0)
    assert math.isnan(empty.loss)


# --- real models ------------------------------------------------------------------------------------------------

PROSE = "The museum opens at nine, and visitors who arrive early may wait in the garden. Admission is free on Sundays."
CODE = """\
class Queue:
    def __init__(self, limit):
        self.items = []
        self.limit = limit

    def push(self, item):
        if len(self.items) >= self.limit:
            raise ValueError("the queue is full")
        self.items.append(item)
        return len(self.items)
"""


@pytest.mark.real
def test_on_indented_code_healing_beats_as_is_and_lookahead_beats_healing(of_text):
    """Gemma-3's indents are one token, and SmolLM2 leaves their last space to the word: " self"."""
    model, target = load_model("smollm2-135m-instruct"), resolve_vocabulary("gemma-3-270m")
    alignment = align(model.vocabulary, target, method="retokenize", cache=False)
    code, prose = (of_text(model, target, alignment, text) for text in (CODE, PROSE))
    loss = {policy: projected.overall.loss for policy, projected in code.policies.items()}
    assert loss[BoundaryPolicy.LOOKAHEAD] < loss[BoundaryPolicy.HEAL] < loss[BoundaryPolicy.AS_IS]
    # In prose both end their tokens before spaces, so there is next to nothing to heal.
    assert prose.common_share > code.common_share
    heal, as_is = (prose.policies[policy].overall.loss for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.AS_IS))
    assert abs(heal - as_is) < 0.05
