"""Where a source expects its end token, the target's next token is the one of all texts tried, and the exact one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from vocabridge.alignment import Vocabulary, align
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.streaming import stream
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.diagnostics.exact_next_token import ExactPredictor
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination

END = 1
METHOD_NAMES = [ProjectionMethod.STATIC, ProjectionMethod.INFORMED]
GPT2 = Regex(r" ?\p{L}+| ?[^\s\p{L}]+|\s+(?!\S)|\s+")
TINY = 1e-9


def vocabulary(*words: bytes, pattern: Regex | None = None) -> Vocabulary:
    """Return a vocabulary of two control tokens, all bytes and some words, each a merge with its last byte."""
    letter = {byte: character for character, byte in byte_level_alphabet().items()}
    spelled = ["".join(letter[byte] for byte in word) for word in words]
    entries = {"<|begin|>": 0, "<|end|>": END} | {letter[byte]: 2 + byte for byte in range(256)}
    entries |= {word: 258 + i for i, word in enumerate(spelled)}
    tokenizer = Tokenizer(models.BPE(entries, [(word[:-1], word[-1]) for word in spelled]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = (
        byte_level
        if pattern is None
        else pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), byte_level])
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|begin|>", "<|end|>")])
    return Vocabulary.from_tokenizer(tokenizer, name="ends", roles={"bos": 0, "eos": END})


def bridge_of(source: LoadedModel, base: LoadedModel, method: ProjectionMethod) -> Bridge:
    """Return a bridge that is the projected donor alone."""
    alignment = align(source.vocabulary, base.vocabulary, method="retokenize", cache=False)
    return Bridge.over(base, ExpertPair(source, source), alignment, Combination(method, 0.0, 1.0, 0.0))


def projected(bridge: Bridge, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return bridge(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1).numpy()


def texts(source: LoadedModel, begun: bytes, longest: int) -> Iterator[tuple[str, float]]:
    """Yield all texts with this beginning and an end token, with the probabilities of their encodings."""
    with torch.no_grad():
        table = source.model(torch.arange(source.vocabulary.size)[None]).logits[0].double().softmax(-1).numpy()
    first = [i for i, data in enumerate(source.vocabulary.token_bytes) if data and begun[:1] == data]
    open_ = [((i,), 1.0) for i in first]
    for _ in range(longest):
        longer = []
        for tokens, p in open_:
            text = b"".join(source.vocabulary.token_bytes[i] for i in tokens)
            if text.startswith(begun) and source.vocabulary.encode(text.decode()).ids.tolist() == list(tokens):
                yield text.decode(), p * table[tokens[-1], END]
            for i in np.flatnonzero(table[tokens[-1]] > TINY).tolist():
                data = source.vocabulary.token_bytes[i]
                if data and (text + data).startswith(begun[: len(text + data)]):
                    longer.append(((*tokens, i), p * table[tokens[-1], i]))
        open_ = longer


def by_trying(source: LoadedModel, target: Vocabulary, ids: list[int], longest: int = 9) -> np.ndarray:
    """Return the distribution of the next target token after some others, summed over all texts."""
    begun = b"".join(target.token_bytes[i] for i in ids)
    p = np.zeros(target.size)
    for text, share in texts(source, begun, longest):
        encoded = [*target.encode(text).ids.tolist(), END]
        if encoded[: len(ids)] == ids:
            p[encoded[len(ids)]] += share
    return p / p.sum()


def exact(source: LoadedModel, target: Vocabulary, ids: list[int]) -> np.ndarray:
    model = ByteLM.of(source, tolerance=0)
    data = b"".join(target.token_bytes[i] for i in ids)
    predictor = ExactPredictor(model, target, tolerance=1e-4, rounds=9)
    return predictor.predict(model.text([data]), data, ids).p[0]


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.abs(p - q).sum() / 2)


LINES = {b"x": {b"\n": 0.9, b"y": 0.1}, b"\n": {END: 0.6, b"\n": 0.2, b"y": 0.2}, b"y": {END: 1.0}}
WORDS = {b"x": {b"a": 1.0}, b"a": {END: 0.7, b"b": 0.2, b"y": 0.1}, b"b": {END: 0.5, b"y": 0.5}, b"y": {END: 1.0}}
SPACES = {b"x": {b" ": 1.0}, b" ": {END: 0.8, b"a": 0.2}, b"a": {END: 1.0}}
LONGER = {b"x": {b"ab": 1.0}, b"ab": {END: 0.5, b"c": 0.5}, b"c": {END: 1.0}}


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize(
    ("p_next", "source_words", "target_words"),
    [
        (LINES, (), (b"\n\n",)),
        (WORDS, (), (b"ab",)),
        (SPACES, (), (b" a",)),
        (LONGER, (b"ab",), (b"bc",)),  # the target cuts "ab" in two, and after "a" takes "bc"
    ],
)
def test_the_mass_of_a_token_that_ends_the_text_is_the_targets_token_that_ends_there(
    bigram, p_next, source_words, target_words, method
):
    source, target = bigram(vocabulary(*source_words), p_next), vocabulary(*target_words)
    ids = target.encode("x").ids.tolist()
    expected = by_trying(source, target, ids)
    assert total_variation(exact(source, target, ids), expected) < 1e-3
    assert total_variation(projected(bridge_of(source, bigram(target, {}), method), ids), expected) < 2e-3


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_boundary_weight_of_a_last_token_is_that_of_the_text_that_ends_after_it(bigram, method):
    """The target has "ya" at the end of a text, but "y" and "a " in front of a space; and it has written "y"."""
    p_next = {
        b"x": {b"ya": 0.5, b"yc": 0.5},
        b"ya": {END: 0.5, b" ": 0.5},
        b"yc": {END: 1.0},
        b" ": {END: 1.0},
        b"y": {END: 1.0},
        b"a": {END: 1.0},
        b"c": {END: 1.0},
    }
    source, target = bigram(vocabulary(b"ya", b"yc"), p_next), vocabulary(b"a ", b"ya")
    ids = target.encode("xy").ids.tolist()
    expected = by_trying(source, target, ids)
    assert expected[target.canonical[b"c"]] == pytest.approx(2 / 3)
    assert total_variation(projected(bridge_of(source, bigram(target, {}), method), ids), expected) < 0.02


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_text_ends_only_after_the_cover_that_is_its_encoding(bigram, method):
    """Two line breaks are one token at the end of a text, and two in front of a word, as with most tokenizers."""
    p_next = {
        b"x": {b"\n\n": 0.02, b"\n": 0.98},
        b"\n\n": {END: 1.0},
        b"\n": {END: 0.8, b"y": 0.18, b"\n": 0.02},
        b"y": {END: 1.0},
    }
    source, target = bigram(vocabulary(b"\n\n", pattern=GPT2), p_next), vocabulary()
    ids = target.encode("x\n\n").ids.tolist()
    expected = by_trying(source, target, ids)
    assert expected[END] == pytest.approx(0.85, abs=0.01)
    assert projected(bridge_of(source, bigram(target, {}), method), ids)[END] == pytest.approx(expected[END], abs=0.02)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_line_breaks_are_written_after_which_the_source_ends(bigram, method):
    """Also where the base would rather write two."""
    target = vocabulary(b"\n\n")
    base = bigram(target, {b"x": {b"\n\n": 0.8, b"\n": 0.2}})
    for breaks, p_next in itertools.product(
        ("\n", "\n\n"), ({b"x": {b"\n": 1.0}, b"\n": {END: 0.9, b"\n": 0.1}, b"y": {END: 1.0}},)
    ):
        if breaks == "\n\n":
            p_next = p_next | {b"\n": {END: 0.1, b"\n": 0.9}}
        bridge = bridge_of(bigram(vocabulary(), p_next), base, method)
        written = "".join(stream(bridge, "x", max_new_tokens=3))
        assert written.startswith(breaks)
        assert (written == "\n") == (breaks == "\n")
