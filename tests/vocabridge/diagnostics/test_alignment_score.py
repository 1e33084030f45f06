"""Scores: equal to what plain loops over the text say, exact where nothing is lost, and adding up."""

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
from vocabridge.diagnostics.alignment_score import _FLOOR, Cost, Fit, ProjectedCosts, Score, score
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
    """A tiny Llama as wide as the vocabulary."""
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
    """How often the target tokens were counted, and once more each."""
    counted = alignment.counts.toarray().sum(axis=1, dtype=np.float64) + 1
    return counted / counted.sum()


def projected_by(alignment: Alignment, p: np.ndarray) -> np.ndarray:
    """C @ p over the mass of tokens that speak; a target token that nobody speaks for keeps its frequency."""
    C, usual = alignment.column_weights.toarray().astype(np.float64), frequencies(alignment)
    covered = C.sum(axis=1) > 0
    return np.where(covered, C @ p / p[C.sum(axis=0) > 0].sum() * usual[covered].sum(), usual)


def charged(q: float, usual: float) -> float:
    return -math.log2((1 - _FLOOR) * q + _FLOOR * usual)


def of_counts(counts, source: Vocabulary, target: Vocabulary) -> Alignment:
    cards = (VocabularyCard.of(source), VocabularyCard.of(target))
    return Alignment(sp.csr_array(counts, dtype=np.float32), *cards, "by hand", {})


@torch.no_grad()
def after_each(model: LoadedModel, ids: list[int]) -> np.ndarray:
    """Natural log-probabilities after the bos token, where there is one, and after each of the ids."""
    begin = [model.vocabulary.roles["bos"]] if model.vocabulary.add_bos_token else []
    return model.model(torch.tensor([begin + ids])).logits[0].log_softmax(-1).double().numpy()


@pytest.fixture
def of_text(tmp_path):
    """Scores one text by one alignment."""

    def scored(model, target, alignment, text, policies=tuple(BoundaryPolicy)) -> Score:
        return score(model, target, {"": alignment}, corpus(text), policies)[""]

    def corpus(text) -> Corpus:
        path = tmp_path / "text.txt"
        path.write_bytes(text.encode())
        return Corpus.open([path])

    scored.corpus = corpus
    return scored


# --- where nothing is lost --------------------------------------------------------------------------------------


def test_with_the_same_vocabulary_on_both_sides_it_is_the_native_cost_up_to_the_floor(loaded, of_text):
    model, text = loaded["source"], TEXTS["words"]
    vocabulary = model.vocabulary
    tokens, native, projected = 0, 0.0, 0.0
    for window in windows(of_text.corpus(text)):
        encoding = vocabulary.encode(window)
        ids, starts = encoding.ids.tolist(), encoding.starts.tolist()
        for i, start in enumerate(starts):  # else the source would cut the text so far otherwise than the whole
            assert vocabulary.encode(window[:start]).ids.tolist() == ids[:i]
        # The first token has nothing before it, and the second common boundary is where the next one starts.
        p = np.exp([after_each(model, ids)[i - 1, ids[i]] for i in range(1, len(ids))])
        tokens += len(ids) - 1
        native -= np.log2(p).sum()
        projected -= np.log2((1 - _FLOOR) * p + _FLOOR / vocabulary.size).sum()
    identity = of_counts(sp.eye(vocabulary.size), vocabulary, vocabulary)
    overall = of_text(model, vocabulary, identity, text).policies[BoundaryPolicy.AS_IS].overall
    assert overall.tokens == tokens
    assert overall.native == pytest.approx(native, rel=1e-5)
    assert overall.projected == pytest.approx(projected, rel=1e-5)


def test_where_every_token_is_a_byte_healing_loses_nothing_inside_a_character_either(tiny, of_text):
    """And those that do not heal say nothing there: it costs what the frequencies say, 8 bits."""
    vocabulary, text = tiny["bytes"], TEXTS["characters"]
    model = random_model(vocabulary)
    tokens, inside, bits_inside, bits = 0, 0, 0.0, 0.0
    for window in windows(of_text.corpus(text)):
        log_p = after_each(model, list(window.encode()))
        for i, byte in enumerate(window.encode()[1:], start=1):
            cost = -math.log2((1 - _FLOOR) * math.exp(log_p[i - 1, byte]) + _FLOOR / 256)
            tokens, bits = tokens + 1, bits + cost
            if byte & 0xC0 == 0x80:
                inside, bits_inside = inside + 1, bits_inside + cost
    found = of_text(model, vocabulary, of_counts(sp.eye(256), vocabulary, vocabulary), text)
    assert found.positions == found.common == tokens
    for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD):
        assert found.policies[policy].overall.projected == pytest.approx(bits, rel=1e-5)
        assert found.policies[policy].silent == 0
    for policy in (BoundaryPolicy.AS_IS, BoundaryPolicy.SKIP):
        assert found.policies[policy].overall.projected == pytest.approx(bits - bits_inside + 8 * inside, rel=1e-5)
        assert found.policies[policy].silent == inside


def test_a_token_that_nobody_speaks_for_keeps_its_frequency_and_the_others_share_the_rest(tiny, of_text):
    """The identity without "e", which keeps its count of none, and with "o" counted a hundred times."""
    vocabulary, text = tiny["bytes"], TEXTS["words"]
    model, e = random_model(vocabulary), ord("e")
    counts = np.ones(256)
    counts[e], counts[ord("o")] = 0, 100
    frequency = (counts + 1) / (counts + 1).sum()
    bits = 0.0
    for window in windows(of_text.corpus(text)):
        p = np.exp(after_each(model, list(window.encode())))
        for i, y in enumerate(window.encode()[1:]):
            q = frequency[e] if y == e else (1 - frequency[e]) * p[i, y] / (1 - p[i, e])
            bits += charged(q, frequency[y])
    diagonal = sp.csr_array(sp.diags_array(counts))
    diagonal.eliminate_zeros()
    for projected in of_text(model, vocabulary, of_counts(diagonal, vocabulary, vocabulary), text).policies.values():
        assert projected.overall.projected == pytest.approx(bits, rel=1e-5)


# --- the same as plain loops ------------------------------------------------------------------------------------


@pytest.fixture(params=["there", "back", "bytes"])
def pair(request, parts, tiny) -> tuple[LoadedModel, Vocabulary, Alignment]:
    """A source without a bos token, one with it, and one of single bytes, four of which make up " the"."""
    if request.param == "bytes":
        source, target = tiny["bytes"], tiny["source"]
        return random_model(source), target, of_counts(np.ones((target.size, source.size)), source, target)
    if request.param == "there":
        return parts.small, parts.base.vocabulary, parts.alignment
    back = align(parts.base.vocabulary, parts.small.vocabulary, method="retokenize", cache=False)
    return parts.base, parts.small.vocabulary, back


def scored_starts(source: Vocabulary, target: Vocabulary, window: str) -> list[int]:
    """Where the target's tokens start, from the second common boundary on."""
    starts, own = target.encode(window).starts.tolist(), source.encode(window).starts.tolist()
    common = set(starts[1:]) & set(own) - {0, -1}
    return [start for start in starts if common and start >= min(common)]


@dataclasses.dataclass(frozen=True)
class Way:
    """A cover of a text: its tokens, what they leave pending, and what the model says after them, read alone.

    And whether it is the encoding of the text as it stands.
    """

    tokens: tuple[int, ...]
    pending: bytes
    log_p: np.ndarray
    may_end: bool

    def weight(self, more: tuple[int, ...] = ()) -> float:
        """Log P of the tokens after the first one, which all covers share."""
        tokens = self.tokens + more
        return sum(self.log_p[k - 1, token] for k, token in enumerate(tokens) if k)


class Alone:
    """What a model says at the target tokens of a text, by a plain forward for every cover."""

    def __init__(self, model: LoadedModel, target: Vocabulary, judge) -> None:
        self.model, self.source, self.target, self.judge = model, model.vocabulary, target, judge(target)
        self.healer = TokenHealer(model.vocabulary, target, CONFIG)
        self.said = functools.lru_cache(None)(self._said)

    @torch.no_grad()
    def _said(self, tokens: tuple[int, ...]) -> np.ndarray:
        return self.model.model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()

    def written(self, before: np.ndarray) -> bytes:
        """The end of the text that the base has written so far."""
        return self.judge.end_of([self.target.token_bytes[i] for i in before.tolist()])

    def ways(self, text: bytes, written: bytes, *, all_ways: bool) -> list[Way]:
        reader, found = IncrementalTokenizer(self.source), []
        reader.append(text)
        covers = (CONFIG.tokens_taken_back, tuple(CONFIG.word_continuations)) if all_ways else ()
        for number, cover in enumerate(reader.cover_candidates(*covers)):
            tokens = (*reader.committed_ids, *cover.ids)
            if tokens and (not cover.pending or (all_ways and self.healer.can_cross(cover.pending, written))):
                may_end = number == 0 and not cover.pending
                found.append(Way(tokens, cover.pending, self.said(tokens), may_end))
        whole = [way.weight() for way in found if not way.pending]
        if not whole or written[-1:].isspace():
            return found
        return [way for way in found if way.may_end or way.weight() > max(whole) + math.log(0.01)]

    def healed(self, ways: list[Way], written: bytes) -> HealedDistribution:
        """Where there is one way, it is what the model says."""
        log_p = torch.from_numpy(np.stack([way.log_p[-1] for way in ways]))
        if len(ways) == 1 and not ways[0].pending:
            return HealedDistribution(log_p[:1].exp(), torch.zeros(1), [{}])
        weights = torch.tensor([way.weight() for way in ways])
        may_end = [[way.may_end for way in ways]]
        return self.healer.marginalize([[way.pending for way in ways]], may_end, weights, log_p, [written])

    def at(self, policy: BoundaryPolicy, text: bytes, written: bytes) -> np.ndarray | None:
        """The source's distribution; None where it is silent."""
        as_it_stands, ways = (self.ways(text, written, all_ways=every) for every in (False, True))
        if policy is BoundaryPolicy.HEAL:
            return self.healed(ways, written).p[0].double().numpy() if ways else None
        if not as_it_stands or (policy is BoundaryPolicy.SKIP and self.healed(ways, written).crossing_mass > 0.5):
            return None
        return np.exp(as_it_stands[0].log_p[-1].astype(np.float64))

    @torch.no_grad()
    def ahead(self, lookahead: Lookahead, chosen: list[int], text: bytes, written: bytes):
        """What is said after some tokens: of the covers that each can stand behind, the mean by how probable it is.

        And the distribution, in which unsure tokens are decided by what follows them.
        """
        ws, after, ways = [], [], self.ways(text, written, all_ways=True)
        healed = self.healed(ways, written)
        p = healed.p[0].clone()
        for w in chosen:
            shares, several = [], []
            for way in ways:
                data = way.pending + self.source.token_bytes[w]
                token = self.source.canonical.get(data) if way.pending else w
                if token is not None:
                    shares.append(way.weight((token,)))
                    several.append(torch.from_numpy(self.said((*way.tokens, token))[-1]).exp())
            if several:
                ws.append(w)
                after.append(torch.tensor(shares).softmax(0) @ torch.stack(several))
                if w in healed.boundary_weights[0]:
                    change, after[-1] = self.judge.decided(
                        self.source, written, w, healed.boundary_weights[0][w], after[-1]
                    )
                    p[w] *= change
        ahead = lookahead.split([0] * len(ws), ws, torch.stack(after)[None]) if ws else None
        return p / p.sum(), ahead


@pytest.mark.quick(4)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_it_is_what_the_model_says_after_each_cover_read_alone(pair, of_text, judge, text):
    model, target, alignment = pair
    source, alone, frequency = model.vocabulary, Alone(model, target, judge), frequencies(alignment)
    bits = {BoundaryPolicy.HEAL: 0.0, BoundaryPolicy.AS_IS: 0.0, BoundaryPolicy.SKIP: 0.0}
    silent = dict.fromkeys(bits, 0)
    for window in windows(of_text.corpus(text)):
        data, encoding = window.encode(), target.encode(window)
        for start in scored_starts(source, target, window):
            i = encoding.starts.tolist().index(start)
            y, written = encoding.ids[i], alone.written(encoding.ids[:i])
            for policy in bits:
                p = alone.at(policy, data[:start], written)
                silent[policy] += p is None
                bits[policy] += charged(frequency[y] if p is None else projected_by(alignment, p)[y], frequency[y])
    found = of_text(model, target, alignment, text)
    for policy, total in bits.items():
        assert found.policies[policy].overall.projected == pytest.approx(total, rel=1e-4)
        assert found.policies[policy].silent == silent[policy]


@pytest.mark.quick(3)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_looking_ahead_is_chosen_by_what_is_projected_without_it(pair, of_text, judge, text):
    """Behind every unsure token, and those that much depends on, whichever of them stands in the text."""
    model, target, alignment = pair
    source, alone, frequency = model.vocabulary, Alone(model, target, judge), frequencies(alignment)
    projection, lookahead = Projection.of(alignment), Lookahead(alignment, source, target, CONFIG)
    usual = torch.from_numpy(frequency).float()[None]
    bits, looked = 0.0, 0
    for window in windows(of_text.corpus(text)):
        data, encoding = window.encode(), target.encode(window)
        for start in scored_starts(source, target, window):
            i = encoding.starts.tolist().index(start)
            y, written = encoding.ids[i], alone.written(encoding.ids[:i])
            healed = alone.healed(alone.ways(data[:start], written, all_ways=True), written)
            p = healed.p / healed.p.sum()
            without = static.Method().distributions(projection, p[None], usual)[0]
            (chosen,) = lookahead.select(p, projection.base_on_source_vocab(without), without)
            chosen = list(dict.fromkeys(alone.healer.uncertain_tokens(healed)[0] + chosen))
            p, ahead = alone.ahead(lookahead, chosen, data[:start], written)
            looked += ahead is not None
            bits += charged(
                float(static.Method().distributions(projection, p[None, None], usual, ahead)[0, 0, y]), frequency[y]
            )
    found = of_text(model, target, alignment, text, (BoundaryPolicy.LOOKAHEAD,))
    assert found.policies[BoundaryPolicy.LOOKAHEAD].overall.projected == pytest.approx(bits, rel=1e-4)
    assert (looked > 0) == (source.name != "bytes")  # of single bytes, each speaks for all target tokens alike


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_native_cost_is_that_of_the_source_s_own_tokens_from_the_second_common_boundary_on(pair, of_text, text):
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
        log_p = after_each(model, encoding.ids.tolist())
        before = 0 if source.add_bos_token else 1
        own_starts = np.maximum.accumulate(encoding.starts)
        for i, (w, start) in enumerate(zip(encoding.ids.tolist(), own_starts.tolist(), strict=True)):
            native -= log_p[i - before, w] / math.log(2) if start >= scored[0] else 0.0
    found = of_text(model, target, alignment, text)
    assert (found.positions, found.common) == (positions, common)
    assert found.common_share == common / positions
    for projected in found.policies.values():
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
    found = of_text(model, target, alignment, text)
    assert (found.positions, found.common) == (3, 2)
    assert found.common_share == pytest.approx(2 / 3)
    assert found.fits == [Fit.EQUAL, Fit.SHORTER]
    assert found.classes == [TokenClass.WORDS, TokenClass.WHITESPACE]
    log_p = after_each(model, ids)
    of_the, of_e = (-log_p[i - 1, ids[i]] / math.log(2) for i in (1, 2))
    usual, bits = frequencies(alignment), 0.0
    for before, y in ((b"  ", b" "), (b"   ", b"the"), (b"   the", "é".encode())):
        q = projected_by(alignment, np.exp(after_each(model, source.encode(before.decode()).ids.tolist())[-1]))
        bits += charged(q[target.canonical[y]], usual[target.canonical[y]])
    assert source.encode("   ").ids.tolist() == [source.canonical[b"   "]]
    assert found.policies[BoundaryPolicy.AS_IS].overall.projected == pytest.approx(bits, rel=1e-5)
    for projected in found.policies.values():
        assert (projected.by_fit[Fit.EQUAL].tokens, projected.by_fit[Fit.EQUAL].bytes) == (1, 2)
        assert (projected.by_fit[Fit.SHORTER].tokens, projected.by_fit[Fit.SHORTER].bytes) == (2, 4)
        assert projected.by_fit[Fit.EQUAL].native == pytest.approx(of_e, rel=1e-5)
        # Of the four bytes of " the", one is the space.
        assert projected.by_class[TokenClass.WHITESPACE].native == pytest.approx(of_the / 4, rel=1e-5)
        assert projected.by_class[TokenClass.WORDS].native == pytest.approx(of_e + of_the * 3 / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "sources", "fit"),
    [
        (1, 1, Fit.EQUAL), (1, 2, Fit.LONGER), (1, 9, Fit.LONGER), (2, 1, Fit.SHORTER), (3, 1, Fit.SHORTER),
        (2, 2, Fit.CROSSED), (2, 5, Fit.CROSSED), (5, 2, Fit.CROSSED),
    ],
)  # fmt: skip
def test_tokens_lie_in_four_ways(targets, sources, fit):
    assert Fit.of(targets, sources) is fit


# --- adding up --------------------------------------------------------------------------------------------------


def total(costs) -> Cost:
    whole = Cost()
    for cost in costs:
        whole.tokens += cost.tokens
        whole.bytes += cost.bytes
        whole.native += cost.native
        whole.projected += cost.projected
    return whole


def test_the_whole_is_the_sum_of_the_classes_and_of_the_fits_for_every_policy(pair, of_text):
    model, target, alignment = pair
    found = of_text(model, target, alignment, "\n".join(TEXTS.values()))
    assert set(found.policies) == set(BoundaryPolicy)
    for projected in found.policies.values():
        assert projected.overall.tokens == found.positions
        for parts_of_it in (projected.by_class, projected.by_fit):
            whole = dataclasses.asdict(total(parts_of_it.values()))
            assert whole == pytest.approx(dataclasses.asdict(projected.overall))


def test_the_text_is_the_sum_of_its_windows(parts, of_text):
    """Lines of one window each: the source reads every one of them anew."""
    line = TEXTS["words"] * 16 + "\n"
    two, three = (of_text(parts.small, parts.base.vocabulary, parts.alignment, line * n) for n in (2, 3))
    assert 750 < len(line) < 1500
    assert three.positions * 2 == two.positions * 3
    for policy, projected in three.policies.items():
        assert projected.overall.projected * 2 == pytest.approx(two.policies[policy].overall.projected * 3)
        assert projected.silent * 2 == two.policies[policy].silent * 3


def test_alignments_scored_together_have_the_scores_that_each_has_alone(parts, of_text):
    model, target = parts.small, parts.base.vocabulary
    alignments = {"default": parts.alignment}
    for method in ("identical-bytes", "retokenize"):
        alignments[method] = align(model.vocabulary, target, method=method, cache=False)
    text = TEXTS["code"] + TEXTS["characters"]
    together = score(model, target, alignments, of_text.corpus(text))
    assert [found.method for found in together.values()] == list(alignments)
    for name, alignment in alignments.items():
        alone = of_text(model, target, alignment, text)
        assert (together[name].positions, together[name].common) == (alone.positions, alone.common)
        for policy, projected in together[name].policies.items():
            assert projected.silent == alone.policies[policy].silent
            for there, here in (
                (projected.overall, alone.policies[policy].overall),
                *zip(projected.by_class.values(), alone.policies[policy].by_class.values(), strict=True),
                *zip(projected.by_fit.values(), alone.policies[policy].by_fit.values(), strict=True),
            ):
                assert dataclasses.asdict(there) == pytest.approx(dataclasses.asdict(here), rel=1e-5)


@pytest.mark.parametrize("policy", BoundaryPolicy)
def test_a_policy_alone_is_what_it_is_among_all(parts, of_text, policy):
    arguments = (parts.small, parts.base.vocabulary, parts.alignment, TEXTS["code"])
    alone = of_text(*arguments, (policy,))
    assert list(alone.policies) == [policy]
    assert alone.policies[policy] == of_text(*arguments).policies[policy]


def test_look_ahead_changes_nothing_where_no_target_token_is_longer_than_a_source_token(parts, tiny, of_text):
    target = tiny["bytes"]
    alignment = align(parts.small.vocabulary, target, method="retokenize", cache=False)
    found = of_text(parts.small, target, alignment, TEXTS["code"]).policies
    assert found[BoundaryPolicy.LOOKAHEAD].overall.projected == pytest.approx(
        found[BoundaryPolicy.HEAL].overall.projected, rel=1e-6
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


def test_a_first_token_is_not_charged_even_if_white_space_in_front_of_it_is_dropped(
    vocabularies, random_models, of_text
):
    """BERT's tokenizer has its first token at byte 1 here, where one of the other's starts, too."""
    source, target, text = vocabularies["no_safe_cuts"], vocabularies["wordpiece"], "\nThe fox"
    starts = target.encode(text).starts.tolist()
    assert starts[0] == 1
    assert 1 in source.encode(text).starts
    found = of_text(
        random_models[source.fingerprint], target, align(source, target, method="identical-bytes", cache=False), text
    )
    assert found.positions == len(scored_starts(source, target, text)) < len(starts)


@pytest.mark.quick(4)
@given(text=st.lists(fragments, max_size=12).map("".join))
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "wordpiece"])
def test_any_text_can_be_scored_between_any_two_tokenizers(
    any_vocabulary, vocabularies, random_models, of_text, kind, text
):
    """Those that drop white space, change case, cannot spell a character, or match a special token in the text."""
    target = vocabularies[kind]
    alignment = align(any_vocabulary, target, method="identical-bytes", cache=False)
    text = "(The) fox, and " + text
    # One that drops the space with which all tokens of the other begin shares no boundary with it.
    assume(any(scored_starts(any_vocabulary, target, window) for window in windows(of_text.corpus(text))))
    found = of_text(random_models[any_vocabulary.fingerprint], target, alignment, text)
    for projected in found.policies.values():
        assert projected.overall.tokens == found.positions
        assert 0 < projected.overall.projected < 40 * found.positions
        assert math.isfinite(projected.overall.native)
        assert 0 <= projected.silent <= found.positions


# --- what is refused, and what is told --------------------------------------------------------------------------


def test_an_alignment_of_other_tokenizers_is_refused(parts, loaded, of_text):
    with pytest.raises(VocabridgeError, match="made for the source tokenizer"):
        of_text(loaded["target"], parts.base.vocabulary, parts.alignment, TEXTS["words"])
    with pytest.raises(VocabridgeError, match="made for the target tokenizer"):
        of_text(parts.small, parts.small.vocabulary, parts.alignment, TEXTS["words"])


@pytest.mark.parametrize("text", ["a", "The", " "])
def test_a_text_of_one_token_is_too_short(parts, of_text, text):
    with pytest.raises(VocabridgeError, match="too short to score"):
        of_text(parts.small, parts.base.vocabulary, parts.alignment, text)


def test_progress_is_told_in_bytes_up_to_the_end(parts, of_text):
    told = []
    corpus = of_text.corpus((TEXTS["words"] + "\n" + TEXTS["characters"]) * 40)
    alignments = {"": parts.alignment}
    target = parts.base.vocabulary
    score(
        parts.small,
        target,
        alignments,
        corpus,
        (BoundaryPolicy.AS_IS,),
        lambda done, all_, _: told.append((done, all_)),
    )
    assert len(told) > 1
    assert told == sorted(told)
    assert told[-1] == (corpus.bytes, corpus.bytes)


def test_a_score_as_json_names_what_the_text_has_and_derives_rates_from_bits(parts, of_text):
    found = of_text(parts.small, parts.base.vocabulary, parts.alignment, TEXTS["code"])
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert list(document["policies"]) == ["skip", "as-is", "heal", "lookahead"]
    assert document["source"] == parts.small.vocabulary.name
    assert document["common_share"] == found.common / found.positions
    for projected in document["policies"].values():
        assert list(projected["by_class"]) == [c.label for c in found.classes]
        assert list(projected["by_fit"]) == [f.value for f in found.fits]
        overall = projected["overall"]
        assert overall["bits_per_byte"] == pytest.approx(overall["projected"] / overall["bytes"])
        assert overall["native_bits_per_byte"] == pytest.approx(overall["native"] / overall["bytes"])
        assert overall["loss"] == pytest.approx(overall["projected"] / overall["native"] - 1)


def test_what_was_never_counted_has_no_loss():
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
def test_on_indented_code_healing_beats_retokenizing_and_looking_ahead_beats_healing(of_text):
    """Gemma-3's indents are one token, and SmolLM2 leaves their last space to the word: " self"."""
    model, target = load_model("smollm2-135m-instruct"), resolve_vocabulary("gemma-3-270m")
    alignment = align(model.vocabulary, target, method="retokenize", cache=False)
    code, prose = (of_text(model, target, alignment, text) for text in (CODE, PROSE))
    loss = {policy: projected.overall.loss for policy, projected in code.policies.items()}
    assert loss[BoundaryPolicy.LOOKAHEAD] < loss[BoundaryPolicy.HEAL] < loss[BoundaryPolicy.AS_IS]
    # In prose both end their tokens before spaces, and there is next to nothing to heal.
    assert prose.common_share > code.common_share
    heal, retokenize = (prose.policies[policy].overall.loss for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.AS_IS))
    assert abs(heal - retokenize) < 0.05
