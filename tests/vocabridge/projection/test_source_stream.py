"""A source's prediction at every position equals that of plain forwards after each cover, summed in loops."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import TokenKind, Vocabulary
from vocabridge.decoding.incremental_tokenizer import CoverCandidate, IncrementalTokenizer
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.prompts import Piece
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.positions import Position
from vocabridge.projection.source_predictions import SourcePredictions
from vocabridge.projection.source_stream import SourceStream
from vocabridge.projection.token_healing import TokenHealer

TEXTS = {
    "words": "The quick brown fox jumps over the lazy dog, and 12 other foxes watch.",
    "digits and code": "24*7=168\n#### 168\ndef count(words):\n    return {word: 1}\n",
    "characters": "cafés 🙂🎉 東京は。日本 naïve e\u0301 👩‍👩‍👧 Привет",
    "spaces": "a" + " " * 9 + "b\t\t c\n\n   d  ",
}
NAMES = ("delta", "tuned", "untuned")
POLICIES = [BoundaryPolicy.SKIP, BoundaryPolicy.AS_IS, BoundaryPolicy.HEAL]
CONFIG = BoundaryConfig()
ALL_COVERS = (CONFIG.tokens_taken_back, tuple(CONFIG.word_continuations))
CONTROLS = {1: 1}
"""The end token, of the base's and of the sources'."""


CoverOfText = tuple[tuple[int, ...], bytes, bool]
"""A cover: all its tokens, the bytes that it has pending, and whether it is the encoding of the text as it stands."""


@dataclass(frozen=True)
class Expected:
    """The prediction at one position: probabilities by model, and the change of logits where nothing was healed."""

    active: bool
    certain: bool = True
    p: dict[str, np.ndarray] | None = None
    delta: np.ndarray | None = None
    healed: dict[str, Healing] | None = None


@dataclass(frozen=True)
class Healing:
    """A distribution after all covers, the crossing mass, and the weights of likely tokens of uncertain boundary.

    Not certain where small errors decide which tokens are judged one by one, and that matters.
    """

    p: np.ndarray
    across: float
    uncertain: dict[int, float]
    certain: bool


class Oracle:
    """A source's predictions from scratch: a plain forward for every cover, and loops over the whole vocabulary."""

    def __init__(self, source: ValueSource, target: Vocabulary, judge) -> None:
        self.source, self.target, self.judge = source, target, judge(target)
        self.plain = functools.lru_cache(None)(self._plain)
        self.run = functools.lru_cache(None)(self._run)

    @torch.no_grad()
    def _plain(self, ids: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Return delta, tuned and untuned after each token of one sequence, (n, |S|)."""
        logits = {
            name: model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
            for name, model in self.source.models.items()
        }
        scores = self.source.scores(logits)
        return {name: getattr(scores, name) for name in NAMES}

    def _run(self, pending: bytes) -> list[tuple[int, int | None, bytes]]:
        """Return the id, the rest's id and the rest of every token that begins with the bytes and is longer."""
        vocabulary, found = self.source.vocabulary, []
        for data, w in sorted(vocabulary.canonical.items()):
            if data.startswith(pending) and len(data) > len(pending):
                rest = data[len(pending) :]
                pieces = vocabulary.segment(rest)
                first = vocabulary.canonical.get(rest, pieces[0] if pieces else None)
                found.append((w, first, rest))
        return found

    def at(self, policy: BoundaryPolicy, reader: IncrementalTokenizer, written: bytes) -> Expected:
        """Return the prediction after the text that the tokenizer has read, which ends like this."""
        covers = reader.copy().cover_candidates(*(() if policy is BoundaryPolicy.AS_IS else ALL_COVERS))
        covers_kept = []
        for number, cover in enumerate(covers):
            ids = (*self._committed_ids(reader), *cover.ids)
            can_cross = policy is not BoundaryPolicy.AS_IS and written and self._may_cross(cover, written)
            if ids and (not cover.pending or can_cross):
                covers_kept.append((ids, cover.pending, number == 0 and not cover.pending))
        if not covers_kept or (policy is BoundaryPolicy.SKIP and reader.partial_utf8):
            return Expected(active=False)
        covers_kept, sure = self._pruned(covers_kept, written)
        as_it_stands = {name: logits[-1] for name, logits in self.plain(covers_kept[0][0]).items()}
        healed = {name: self.healed(covers_kept, name, written) for name in ("tuned", "untuned")}
        across = healed["tuned"].across
        if policy is BoundaryPolicy.SKIP and across > CONFIG.max_crossing_mass:
            return Expected(active=False, certain=sure and abs(across - CONFIG.max_crossing_mass) > 1e-3)
        if policy is BoundaryPolicy.HEAL and (len(covers_kept) > 1 or covers_kept[0][1]):
            certain = sure and all(healing.certain for healing in healed.values())
            p = {name: healing.p for name, healing in healed.items()}
            return Expected(active=True, certain=certain, p=p, healed=healed)
        p = {name: as_it_stands[name].softmax(-1).numpy() for name in ("tuned", "untuned")}
        certain = policy is not BoundaryPolicy.SKIP or abs(across - CONFIG.max_crossing_mass) > 1e-3
        return Expected(active=True, certain=sure and certain, p=p, delta=as_it_stands["delta"].numpy())

    def _pruned(self, covers_kept: list[CoverOfText], written: bytes) -> tuple[list[CoverOfText], bool]:
        """Return the covers at least 1 % as probable as the text as it stands, and whether that is clear-cut."""
        whole = [i for i, (_, pending, _) in enumerate(covers_kept) if not pending]
        if len(covers_kept) < 2 or not whole or written[-1:].isspace():
            return covers_kept, True
        kept, sure = {i for i, (_, _, may_end) in enumerate(covers_kept) if may_end}, True
        for name in ("tuned", "untuned"):
            weights = np.array([self._weight(name, ids) for ids, _, _ in covers_kept])
            above = weights - weights[whole].max() - np.log(0.01)
            kept |= set(np.flatnonzero(above > 0).tolist())
            sure &= bool((np.abs(above) > 1e-3).all())
        return [covers_kept[i] for i in sorted(kept)], sure

    def _weight(self, name: str, ids: tuple[int, ...]) -> float:
        log_p = self.plain(ids)[name].double().log_softmax(-1).numpy()
        return sum(log_p[i - 1, ids[i]] for i in range(1, len(ids)))

    def _committed_ids(self, reader: IncrementalTokenizer) -> list[int]:
        settling = reader.copy()
        settling.cover_candidates()
        return settling.committed_ids

    def _may_cross(self, cover: CoverCandidate, written: bytes) -> bool:
        return any(self.judge.weight_of_class(written, rest) > 1e-6 for _, _, rest in self.run(cover.pending))

    def healed(self, covers_kept: list[CoverOfText], name: str, written: bytes) -> Healing:
        arriving = []
        kinds = self.source.vocabulary.kinds
        for ids, pending, may_end in covers_kept:
            log_p, weight = self.plain(ids)[name].double().log_softmax(-1).numpy(), self._weight(name, ids)
            if not pending:
                follows = [w for w in range(log_p.shape[1]) if may_end or kinds[w] != TokenKind.CONTROL]
                arriving += [(w, weight + log_p[-1, w], 0) for w in follows]
            for w, first, _ in self.run(pending) if pending else ():
                arriving.append((first, weight + log_p[-1, w], 1))
        highest, size = max(logs for _, logs, _ in arriving), self.source.vocabulary.size
        masses = np.zeros((2, size + 1))  # those that end at the text's end, and those that run across it
        for first, logs, is_across in arriving:
            masses[is_across, size if first is None else first] += np.exp(logs - highest)
        mass = masses.sum(0)
        counts, judged, certain = self.judge.weights(self.source.vocabulary, written, mass)
        uncertain = {w: count for w, count in judged.items() if 1e-6 < count < 0.99}
        everything = (mass * counts).sum()
        return Healing(
            mass[:-1] * counts[:-1] / everything, (masses[1] * counts).sum() / everything, uncertain, certain
        )

    def along(self, policy: BoundaryPolicy, tokens: list[Piece], beginning: tuple[Piece, ...] = ()) -> list[Expected]:
        """Return the predictions after every token."""
        reader, found = IncrementalTokenizer(self.source.vocabulary), []
        for piece in beginning:
            reader.append(piece)
        for i, token in enumerate(tokens):
            reader.append(token)
            found.append(self.at(policy, reader, self.judge.end_of(tokens[: i + 1])))
        return found


def predict(stream: SourceStream, positions: list[Position], names: tuple[str, ...] = NAMES) -> SourcePredictions:
    return stream.predictor.predict(positions, names, torch.device("cpu"))


def compare(stream: SourceStream, positions: list[Position], expected: list[Expected]) -> None:
    if not expected:
        return
    found = predict(stream, positions)
    scores, active = found.scores, found.active
    for i, at_position in enumerate(expected):
        if not at_position.certain:
            continue
        assert bool(active[i]) == at_position.active
        if at_position.p is None:
            continue
        for name, p in at_position.p.items():
            np.testing.assert_allclose(getattr(scores, name)[i].softmax(-1).numpy(), p, atol=2e-4)
        if at_position.delta is not None:
            np.testing.assert_allclose(scores.delta[i].numpy(), at_position.delta, atol=1e-3, rtol=1e-3)
        else:
            likely = np.minimum(at_position.p["tuned"], at_position.p["untuned"]) > 1e-3
            delta = np.log(at_position.p["tuned"][likely] / at_position.p["untuned"][likely])
            np.testing.assert_allclose(scores.delta[i].numpy()[likely], delta, atol=0.05)


@pytest.fixture(scope="module")
def target(loaded) -> Vocabulary:
    return loaded["target"].vocabulary


@pytest.fixture(scope="module", params=["full", "sliding", "hybrid, bos token", "residual"])
def oracle(request, parts, sliding, loaded, target, judge) -> Oracle:
    sources = {
        "full": lambda: parts.pair,
        "sliding": lambda: ExpertPair(sliding, sliding),
        "hybrid, bos token": lambda: ExpertPair(loaded["target"], loaded["target"]),
        "residual": lambda: parts.residual(0.2),
    }
    return Oracle(sources[request.param](), target, judge)


def open_stream(oracle: Oracle, policy: BoundaryPolicy, batch: int = 1) -> SourceStream:
    return SourceStream(
        oracle.source,
        set(oracle.source.models),
        TokenHealer(oracle.source.vocabulary, oracle.target, CONFIG),
        policy,
        batch,
    )


def token(target: Vocabulary, i: int) -> Piece:
    """Return the piece of a target token as a steering gives it to the source; -1 is padding."""
    data = target.token_bytes[i] if i >= 0 else b""
    return CONTROLS.get(i, b"") if data is None else data


def tokens(target: Vocabulary, text: str) -> list[Piece]:
    """Return the target's tokens of a text, the second half of it byte by byte."""
    data = text.encode()
    ids = [
        *target.segment(data[: len(data) // 2]),
        *(target.ids_of(data[i : i + 1])[0] for i in range(len(data) // 2, len(data))),
    ]
    return [token(target, i) for i in ids]


@st.composite
def written(draw: st.DrawFn, longest: int = 12) -> list[int]:
    """Ids of the base's: words, bytes of any text, control tokens and padding; -2 - b stands for byte b."""
    word = st.lists(st.integers(259, 598), max_size=3)
    byte = st.text(max_size=2).map(lambda text: [-2 - byte for byte in text.encode()])
    half = st.binary(max_size=2).map(lambda data: [-2 - byte for byte in data])
    spaces = st.integers(0, 4).map(lambda n: [-2 - ord(" ")] * n)
    control = st.sampled_from([[], [1], [0], [-1], [2]])
    parts = draw(st.lists(st.one_of(word, word, byte, half, spaces, control), max_size=longest))
    return [i for part in parts for i in part][:longest]


def read_as(target: Vocabulary, ids: list[int]) -> list[Piece]:
    return [token(target, i if i >= -1 else target.ids_of(bytes([-2 - i]))[0]) for i in ids]


def relaxed(thorough: int) -> settings:
    return settings(max_examples=examples(thorough), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.quick(8)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_token_by_token_all_at_once_and_in_parts(oracle, target, text, policy):
    pieces = tokens(target, text)[:28]
    expected = oracle.along(policy, pieces)
    stream = open_stream(oracle, policy)
    for i, single in enumerate(pieces):
        compare(stream, stream.advance([[single]], 1), [expected[i]])
    stream = open_stream(oracle, policy)
    compare(stream, stream.advance([pieces], len(pieces)), expected)
    first, stream = len(pieces) * 2 // 3, open_stream(oracle, policy)
    compare(stream, stream.advance([pieces[:first]], 2), expected[first - 2 : first])
    compare(stream, stream.advance([pieces[first:]], len(pieces) - first), expected[first:])


@pytest.mark.quick(4)
@pytest.mark.parametrize("policy", POLICIES)
@given(ids=written(), cuts=st.lists(st.integers(1, 4), min_size=12, max_size=12))
@relaxed(8)
def test_any_tokens_in_any_steps(oracle, target, policy, ids, cuts):
    pieces, stream, at = read_as(target, ids), open_stream(oracle, policy), 0
    expected = oracle.along(policy, pieces)
    for cut in cuts:
        if part := pieces[at : at + cut]:
            compare(stream, stream.advance([part], len(part)), expected[at : at + cut])
        at += cut


@pytest.mark.quick(4)
@pytest.mark.parametrize("policy", POLICIES)
@given(ids=written(), more=written(), kept=st.integers(0, 11))
@relaxed(5)
def test_after_a_crop_other_tokens_are_read(oracle, target, policy, ids, more, kept):
    pieces, others, stream = read_as(target, ids), read_as(target, more), open_stream(oracle, policy)
    kept = min(kept, len(pieces))
    if pieces:
        stream.advance([pieces], len(pieces))
    stream.crop(0, kept)
    assert stream.length == kept
    if others:
        expected = oracle.along(policy, pieces[:kept] + others)[kept:]
        compare(stream, stream.advance([others[:1]], 1), expected[:1])
        if others[1:]:
            compare(stream, stream.advance([others[1:]], len(others) - 1), expected[1:])


@pytest.mark.quick(3)
@pytest.mark.parametrize("policy", POLICIES)
def test_left_padded_rows_of_different_texts_and_their_reordering(oracle, target, policy):
    rows = [tokens(target, text)[: 10 + 4 * i] for i, text in enumerate(TEXTS.values())]
    width = max(map(len, rows))
    rows = [[token(target, -1)] * (width - len(row)) + row for row in rows]
    stream = open_stream(oracle, policy, 4)
    expected = [at_position for row in rows for at_position in oracle.along(policy, row)]
    compare(stream, stream.advance(rows, width), expected)
    more = [tokens(target, text) for text in (" foes 🙂", "xx\n   y z", "é日!  aaaa", "\n\n   the")]
    order = [2, 0, 0, 3]
    stream.reorder(torch.tensor(order))
    rows = [rows[i] for i in order]
    for step in range(5):
        positions = stream.advance([[new[step]] for new in more], 1)
        rows = [[*row, new[step]] for row, new in zip(rows, more, strict=True)]
        compare(stream, positions, [oracle.along(policy, row)[-1] for row in rows])
    stream.reorder(torch.tensor([1, 3]))
    stream.crop(0, len(rows[1]) - 3)
    stream.crop(1, len(rows[3]) - 3)
    rows = [[*rows[1][:-3], token(target, 300)], [*rows[3][:-3], token(target, 301)]]
    compare(stream, stream.advance([row[-1:] for row in rows], 1), [oracle.along(policy, row)[-1] for row in rows])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_prompt_of_the_sources_own_replaces_the_bases(oracle, target, policy):
    stream, beginning = open_stream(oracle, policy, 2), (b"System:", 1, b" The")
    stream.set_prompt(1, beginning)
    prompt, more = [b""] * 3, tokens(target, " fox")
    expected = [oracle.along(policy, prompt + more), oracle.along(policy, prompt + more, beginning)]
    compare(stream, stream.advance([prompt, prompt], 1), [of_row[2] for of_row in expected])
    for i, single in enumerate(more, start=3):
        compare(stream, stream.advance([[single], [single]], 1), [of_row[i] for of_row in expected])
    stream.crop(1, 2)
    compare(stream, stream.advance([[], []], 0), [])


@pytest.mark.parametrize("policy", POLICIES)
def test_steps_that_add_no_text_repeat_the_last_scores_and_cost_nothing(parts, target, policy, forwards, judge):
    oracle = Oracle(parts.pair, target, judge)
    seen, stream = forwards(parts.tuned.model), open_stream(oracle, policy, 2)
    texts = [tokens(target, "The fox"), tokens(target, "a 1.  x")]
    before = predict(stream, stream.advance([text[:4] for text in texts], 1))
    seen.clear()
    after = predict(stream, stream.advance([[token(target, -1)], [token(target, 2)]], 1))
    assert not seen
    assert torch.equal(before.active, after.active)
    assert torch.equal(before.scores.tuned, after.scores.tuned)


@pytest.mark.parametrize("policy", POLICIES)
def test_before_any_text_a_source_without_bos_token_makes_no_prediction(parts, loaded, target, policy, judge):
    empty = [token(target, -1), token(target, 2)]
    for source, active in ((parts.pair, False), (ExpertPair(loaded["target"], loaded["target"]), True)):
        oracle = Oracle(source, target, judge)
        stream = open_stream(oracle, policy)
        positions = stream.advance([empty], 2)
        assert [bool(position.covers) for position in positions] == [active, active]
        compare(stream, positions, oracle.along(policy, empty))


def test_inside_a_character_skip_and_as_is_make_no_prediction_and_heal_does(parts, target, judge):
    oracle = Oracle(parts.pair, target, judge)
    half = [*tokens(target, "fox "), *read_as(target, [-2 - 0xF0, -2 - 0x9F])]
    for policy, active in ((BoundaryPolicy.SKIP, False), (BoundaryPolicy.AS_IS, False), (BoundaryPolicy.HEAL, True)):
        stream = open_stream(oracle, policy)
        assert bool(predict(stream, stream.advance([half], 1)).active) == active


def test_the_text_s_end_is_its_last_token_with_its_word_before_it(parts, target, judge):
    """The cut of this part by the base's tokenizer may depend on what follows."""
    stream = SourceStream(
        parts.pair, {"tuned"}, TokenHealer(parts.small.vocabulary, target, CONFIG), BoundaryPolicy.HEAL, 1
    )
    for pieces, expected in (
        ([], b""),
        ([b"The", b" fo", b"x"], b" fox"),
        ([b"The", b" fo", b"", b"x", b""], b" fox"),
        ([b"Th", b"e", b"\xc3", b"\xa9"], "Theé".encode()),
        ([b"fox", b" "], b" "),
        ([b"fox", b".", b"a"], b".a"),
        ([b"fo", b"x", b"12"], b"12"),
        ([b"\n", b"  ", b"x"], b"  x"),
        ([b" a", *[b"b"] * 5], b" abbbbb"),
        ([b" a", *[b"b"] * 6], b"bbbbbb"),  # of six tokens at most
        ([b"The", 1, b"fo", b"x"], b"fox"),
        ([b" fox", 1], b""),
        ([b" fox", 1, b""], b""),
        ([1, 1, b"x"], b"x"),
    ):
        assert stream._text_end(pieces) == expected == judge(target).end_of(pieces)


@pytest.mark.quick(4)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_uncertain_tokens_are_those_that_would_have_much_mass_at_boundary_weight_1(oracle, target, text):
    """They are the tuned model's, and only lookahead computes them."""
    pieces, reader, seen = tokens(target, text)[:28], IncrementalTokenizer(oracle.source.vocabulary), set()
    streams = {policy: open_stream(oracle, policy) for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD)}
    uncertain = {
        policy: predict(stream, stream.advance([pieces], len(pieces)), ("tuned", "untuned")).uncertain_tokens
        for policy, stream in streams.items()
    }
    assert not uncertain[BoundaryPolicy.HEAL]
    for i in range(len(pieces)):
        found = uncertain[BoundaryPolicy.LOOKAHEAD].get(i, [])
        reader.append(pieces[i])
        healed = oracle.at(BoundaryPolicy.HEAL, reader, oracle.judge.end_of(pieces[: i + 1])).healed
        if not healed:
            assert found == []
            continue
        shares = {}
        for w, count in healed["tuned"].uncertain.items():
            mass = healed["tuned"].p[w] / count
            shares[w] = mass / (1 - healed["tuned"].p[w] + mass)
        if healed["tuned"].certain and all(abs(share - 0.1) > 1e-3 for share in shares.values()):
            assert set(found) == {w for w, share in shares.items() if share > 0.1}
            seen |= set(found)
    assert seen or text == TEXTS["spaces"]


def test_only_the_named_models_run(parts, target, forwards):
    source = parts.pair
    tuned, untuned = forwards(parts.tuned.model), forwards(parts.small.model)
    stream = SourceStream(source, {"tuned"}, TokenHealer(source.vocabulary, target, CONFIG), BoundaryPolicy.HEAL, 1)
    predict(stream, stream.advance([tokens(target, "The fox")], 2), ("tuned",))
    assert tuned
    assert not untuned


@pytest.mark.quick(1)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sentence", ["The quick foxes, 12 in all, sleep. ", "東京は、日本の首都です。"])
def test_what_a_token_costs_does_not_grow_with_the_text(parts, target, policy, sentence, forwards, encoded, judge):
    """1,000 tokens: one forward of a few columns each, and a few characters encoded."""
    oracle = Oracle(parts.pair, target, judge)
    pieces = [i for _ in range(120) for i in tokens(target, sentence)][:1000]
    stream, seen = open_stream(oracle, policy), forwards(parts.tuned.model)
    characters, columns = [], []
    for single in pieces:
        encoded.clear()
        seen.clear()
        stream.advance([[single]], 1)
        characters.append(sum(encoded))
        columns.append(sum(width for _, width in seen))
        assert len(seen) <= 1
    assert max(characters[900:]) <= max(characters[:200]) <= 40 * len(sentence)
    assert max(columns) <= 12
    assert sum(columns[500:]) <= 1.05 * sum(columns[:500])
