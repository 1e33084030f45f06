"""What a source says at every position is what plain forwards say, of each cover from scratch, summed up in loops."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Vocabulary
from vocabridge.healing import _UNLIKELY, Healer
from vocabridge.policy import Policy
from vocabridge.reader import Cover, Piece, Reader
from vocabridge.reading import _RUNS_ON, Reading, Said, Token
from vocabridge.value_source import ContrastPair, ValueSource

TEXTS = {
    "words": "The quick brown fox jumps over the lazy dog, and 12 other foxes watch.",
    "digits and code": "24*7=168\n#### 168\ndef count(words):\n    return {word: 1}\n",
    "characters": "cafés 🙂🎉 東京は。日本 naïve e\u0301 👩‍👩‍👧 Привет",
    "spaces": "a" + " " * 9 + "b\t\t c\n\n   d  ",
}
NAMES = ("delta", "tuned", "untuned")
POLICIES = [Policy.SKIP, Policy.RETOKENIZE, Policy.HEAL]
CONTROLS = {1: 1}
"""The end token, of the base's and of the sources'."""


@dataclass(frozen=True)
class Expected:
    """What is said at one position: probabilities by donor, and the change of logits where nothing was healed."""

    speaks: bool
    certain: bool = True
    p: dict[str, np.ndarray] | None = None
    delta: np.ndarray | None = None


class Oracle:
    """A source heard from scratch: a plain forward for every cover, and loops over the whole vocabulary."""

    def __init__(self, source: ValueSource, target: Vocabulary) -> None:
        self.source, self.target = source, target
        self.plain = functools.lru_cache(None)(self._plain)
        self.run = functools.lru_cache(None)(self._run)
        self.ended = functools.lru_cache(None)(self._ended)

    @torch.no_grad()
    def _plain(self, ids: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Delta, tuned and untuned after each token of one sequence, (n, |S|)."""
        logits = {
            name: model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
            for name, model in self.source.models.items()
        }
        said = self.source.scores(logits)
        return {name: getattr(said, name) for name in NAMES}

    def _run(self, pending: bytes) -> list[tuple[int, int | None, bytes]]:
        """Of every token that begins with this and is longer: its id, that of its rest, and a sample of its sort."""
        vocabulary, found = self.source.vocabulary, []
        samples: dict[str, bytes] = {}
        for data, w in sorted(vocabulary.canonical.items()):
            if data.startswith(pending) and len(data) > len(pending):
                rest = data[len(pending) :]
                sort = rest.decode(errors="surrogateescape")[0]
                samples[sort] = min(samples.get(sort, rest), rest, key=lambda data: (len(data), data))
                pieces = vocabulary.segment(rest)
                first = vocabulary.canonical.get(rest, pieces[0] if pieces else None)
                found.append((w, first, sort))
        return [(w, first, samples[sort]) for w, first, sort in found]

    def _ended(self, last: int, sample: bytes) -> bool:
        before = self.target.token_bytes[last]
        if before is None:
            return True
        cuts = [self.target.segment(before + sample + more) for more in (b"", b"a")]
        return any(len(cut) > 1 and cut[0] == last for cut in cuts)

    def at(self, policy: Policy, reader: Reader, last: int) -> Expected:
        """After the text that the reader has read."""
        covers = reader.copy().covers(all_ways=policy is not Policy.RETOKENIZE)
        asked = []
        for cover in covers:
            ids = (*self._settled(reader), *cover.ids)
            runs_on = policy is not Policy.RETOKENIZE and last >= 0 and self._may_run_on(cover, last)
            if ids and (not cover.pending or runs_on):
                asked.append((ids, cover.pending))
        if not asked or (policy is Policy.SKIP and reader.half):
            return Expected(speaks=False)
        as_it_stands = {name: logits[-1] for name, logits in self.plain(asked[0][0]).items()}
        across, healed = 0.0, {}
        for name in ("tuned", "untuned"):
            healed[name], share = self._healed(asked, name, last)
            across = share if name == "tuned" else across
        if policy is Policy.SKIP and across > _RUNS_ON:
            return Expected(speaks=False, certain=abs(across - _RUNS_ON) > 1e-3)
        if policy is Policy.HEAL and (len(asked) > 1 or asked[0][1]):
            return Expected(speaks=True, p=healed)
        p = {name: as_it_stands[name].softmax(-1).numpy() for name in ("tuned", "untuned")}
        certain = policy is not Policy.SKIP or abs(across - _RUNS_ON) > 1e-3
        return Expected(speaks=True, certain=certain, p=p, delta=as_it_stands["delta"].numpy())

    def _settled(self, reader: Reader) -> list[int]:
        settling = reader.copy()
        settling.covers(all_ways=False)
        return settling.settled

    def _may_run_on(self, cover: Cover, last: int) -> bool:
        return any(self.ended(last, sample) for _, _, sample in self.run(cover.pending))

    def _healed(self, asked: list[tuple[tuple[int, ...], bytes]], name: str, last: int) -> tuple[np.ndarray, float]:
        arriving = []
        for ids, pending in asked:
            log_p = self.plain(ids)[name].double().log_softmax(-1).numpy()
            weight = sum(log_p[i - 1, ids[i]] for i in range(1, len(ids)))
            if not pending:
                arriving += [(w, weight + log_p[-1, w], 1.0, 0) for w in range(log_p.shape[1])]
            for w, first, sample in self.run(pending) if pending else ():
                counts = 1.0 if self.ended(last, sample) else _UNLIKELY
                arriving.append((first, weight + log_p[-1, w], counts, 1))
        highest = max(logs for _, logs, _, _ in arriving)
        total, everything, across = np.zeros(self.source.vocabulary.size), 0.0, 0.0
        for first, logs, counts, is_across in arriving:
            mass = counts * np.exp(logs - highest)
            everything += mass
            across += mass * is_across
            if first is not None:
                total[first] += mass
        return total / everything, across / everything

    def along(self, policy: Policy, tokens: list[Token], beginning: tuple[Piece, ...] = ()) -> list[Expected]:
        """After every token."""
        reader, last, found = Reader(self.source.vocabulary), -1, []
        for piece in beginning:
            reader.push(piece)
        for token in tokens:
            reader.push(token.piece)
            last = last if token.piece == b"" else token.id
            found.append(self.at(policy, reader, last))
        return found


def compare(said: Said, expected: list[Expected]) -> None:
    if not expected:
        return
    scores, speaks = said.scores(slice(0, len(expected)), NAMES, None, torch.device("cpu"))
    for i, one in enumerate(expected):
        if not one.certain:
            continue
        assert bool(speaks[i]) == one.speaks
        if one.p is None:
            continue
        for name, p in one.p.items():
            np.testing.assert_allclose(getattr(scores, name)[i].softmax(-1).numpy(), p, atol=2e-4)
        if one.delta is not None:
            np.testing.assert_allclose(scores.delta[i].numpy(), one.delta, atol=1e-3, rtol=1e-3)
        else:
            likely = np.minimum(one.p["tuned"], one.p["untuned"]) > 1e-3
            delta = np.log(one.p["tuned"][likely] / one.p["untuned"][likely])
            np.testing.assert_allclose(scores.delta[i].numpy()[likely], delta, atol=0.05)


@pytest.fixture(scope="module")
def target(loaded) -> Vocabulary:
    return loaded["target"].vocabulary


@pytest.fixture(scope="module", params=["full", "sliding", "hybrid, begin token", "residual"])
def oracle(request, parts, sliding, loaded, target) -> Oracle:
    sources = {
        "full": lambda: parts.pair,
        "sliding": lambda: ContrastPair(sliding, sliding),
        "hybrid, begin token": lambda: ContrastPair(loaded["target"], loaded["target"]),
        "residual": lambda: parts.residual(0.2),
    }
    return Oracle(sources[request.param](), target)


def reading(oracle: Oracle, policy: Policy, batch: int = 1) -> Reading:
    return Reading(
        oracle.source, set(oracle.source.models), Healer(oracle.source.vocabulary, oracle.target), policy, batch
    )


def token(target: Vocabulary, i: int) -> Token:
    """As a steering has the source read it; -1 is padding."""
    data = target.token_bytes[i] if i >= 0 else b""
    return Token(i, CONTROLS.get(i, b"") if data is None else data)


def tokens(target: Vocabulary, text: str) -> list[Token]:
    """The target's tokens of a text, the second half of it byte by byte."""
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


def read_as(target: Vocabulary, ids: list[int]) -> list[Token]:
    return [token(target, i if i >= -1 else target.ids_of(bytes([-2 - i]))[0]) for i in ids]


def relaxed(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_token_by_token_all_at_once_and_in_parts(oracle, target, text, policy):
    several = tokens(target, text)[:28]
    expected = oracle.along(policy, several)
    one = reading(oracle, policy)
    for i, single in enumerate(several):
        compare(one.read([[single]], 1), [expected[i]])
    compare(reading(oracle, policy).read([several], len(several)), expected)
    first, one = len(several) * 2 // 3, reading(oracle, policy)
    compare(one.read([several[:first]], 2), expected[first - 2 : first])
    compare(one.read([several[first:]], len(several) - first), expected[first:])


@pytest.mark.parametrize("policy", POLICIES)
@given(ids=written(), cuts=st.lists(st.integers(1, 4), min_size=12, max_size=12))
@relaxed(8)
def test_any_tokens_in_any_steps(oracle, target, policy, ids, cuts):
    several, one, at = read_as(target, ids), reading(oracle, policy), 0
    expected = oracle.along(policy, several)
    for cut in cuts:
        if part := several[at : at + cut]:
            compare(one.read([part], len(part)), expected[at : at + cut])
        at += cut


@pytest.mark.parametrize("policy", POLICIES)
@given(ids=written(), more=written(), kept=st.integers(0, 11))
@relaxed(5)
def test_after_taking_tokens_back_others_are_read(oracle, target, policy, ids, more, kept):
    several, others, one = read_as(target, ids), read_as(target, more), reading(oracle, policy)
    kept = min(kept, len(several))
    if several:
        one.read([several], len(several))
    one.crop(0, kept)
    assert one.length == kept
    if others:
        expected = oracle.along(policy, several[:kept] + others)[kept:]
        compare(one.read([others[:1]], 1), expected[:1])
        if others[1:]:
            compare(one.read([others[1:]], len(others) - 1), expected[1:])


@pytest.mark.parametrize("policy", POLICIES)
def test_left_padded_rows_of_different_texts_and_their_reordering(oracle, target, policy):
    rows = [tokens(target, text)[: 10 + 4 * i] for i, text in enumerate(TEXTS.values())]
    width = max(map(len, rows))
    rows = [[token(target, -1)] * (width - len(row)) + row for row in rows]
    one = reading(oracle, policy, 4)
    compare(one.read(rows, width), [said for row in rows for said in oracle.along(policy, row)])
    more = [tokens(target, text) for text in (" foes 🙂", "xx\n   y z", "é日!  aaaa", "\n\n   the")]
    order = [2, 0, 0, 3]
    one.reorder(torch.tensor(order))
    rows = [rows[i] for i in order]
    for step in range(5):
        said = one.read([[new[step]] for new in more], 1)
        rows = [[*row, new[step]] for row, new in zip(rows, more, strict=True)]
        compare(said, [oracle.along(policy, row)[-1] for row in rows])
    one.reorder(torch.tensor([1, 3]))
    one.crop(0, len(rows[1]) - 3)
    one.crop(1, len(rows[3]) - 3)
    rows = [[*rows[1][:-3], token(target, 300)], [*rows[3][:-3], token(target, 301)]]
    compare(one.read([row[-1:] for row in rows], 1), [oracle.along(policy, row)[-1] for row in rows])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_beginning_of_its_own_stands_for_the_bases_prompt(oracle, target, policy):
    one, beginning = reading(oracle, policy, 2), (b"System:", 1, b" The")
    one.prime(1, beginning)
    prompt, more = [Token(-1, b"")] * 3, tokens(target, " fox")
    expected = [oracle.along(policy, prompt + more), oracle.along(policy, prompt + more, beginning)]
    compare(one.read([prompt, prompt], 1), [several[2] for several in expected])
    for i, single in enumerate(more, start=3):
        compare(one.read([[single], [single]], 1), [several[i] for several in expected])
    one.crop(1, 2)
    compare(one.read([[], []], 0), [])


@pytest.mark.parametrize("policy", POLICIES)
def test_steps_that_add_no_text_repeat_the_last_scores_and_cost_nothing(parts, target, policy, forwards):
    oracle = Oracle(parts.pair, target)
    seen, one = forwards(parts.tuned.model), reading(oracle, policy, 2)
    texts = [tokens(target, "The fox"), tokens(target, "a 1.  x")]
    before = one.read([text[:4] for text in texts], 1).scores(slice(0, 2), NAMES, None, torch.device("cpu"))
    seen.clear()
    after = one.read([[token(target, -1)], [token(target, 2)]], 1).scores(slice(0, 2), NAMES, None, torch.device("cpu"))
    assert not seen
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0].tuned, after[0].tuned)


@pytest.mark.parametrize("policy", POLICIES)
def test_before_any_text_a_source_without_begin_token_has_no_say(parts, loaded, target, policy):
    empty = [token(target, -1), token(target, 2)]
    for source, says in ((parts.pair, False), (ContrastPair(loaded["target"], loaded["target"]), True)):
        oracle = Oracle(source, target)
        said = reading(oracle, policy).read([empty], 2)
        assert [bool(position.asked) for position in said.positions] == [says, says]
        compare(said, oracle.along(policy, empty))


def test_inside_a_character_skip_and_retokenize_are_silent_and_heal_is_not(parts, target):
    oracle = Oracle(parts.pair, target)
    half = [*tokens(target, "fox "), *read_as(target, [-2 - 0xF0, -2 - 0x9F])]
    for policy, says in ((Policy.SKIP, False), (Policy.RETOKENIZE, False), (Policy.HEAL, True)):
        _, speaks = reading(oracle, policy).read([half], 1).scores(slice(0, 1), NAMES, None, torch.device("cpu"))
        assert bool(speaks) == says


def test_only_the_named_models_run(parts, target, forwards):
    source = parts.pair
    tuned, untuned = forwards(parts.tuned.model), forwards(parts.small.model)
    one = Reading(source, {"tuned"}, Healer(source.vocabulary, target), Policy.HEAL, 1)
    one.read([tokens(target, "The fox")], 2).scores(slice(0, 2), ("tuned",), None, torch.device("cpu"))
    assert tuned
    assert not untuned


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sentence", ["The quick foxes, 12 in all, sleep. ", "東京は、日本の首都です。"])
def test_what_a_token_costs_does_not_grow_with_the_text(parts, target, policy, sentence, forwards, encoded):
    """1,000 tokens: one forward of a few columns each, and a few characters encoded."""
    oracle = Oracle(parts.pair, target)
    several = [i for _ in range(120) for i in tokens(target, sentence)][:1000]
    one, seen = reading(oracle, policy), forwards(parts.tuned.model)
    characters, columns = [], []
    for single in several:
        encoded.clear()
        seen.clear()
        one.read([[single]], 1)
        characters.append(sum(encoded))
        columns.append(sum(width for _, width in seen))
        assert len(seen) <= 1
    assert max(characters[900:]) <= max(characters[:200]) <= 40 * len(sentence)
    assert max(columns) <= 12
    assert sum(columns[500:]) <= 1.05 * sum(columns[:500])
