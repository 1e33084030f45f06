"""What a value source says equals a plain forward on the text encoded from scratch, at every position."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vocabridge.reader import Reader, begin_tokens
from vocabridge.reading import Reading
from vocabridge.value_source import ContrastPair

TEXTS = {
    "words": "The quick brown fox jumps over the lazy dog, and 12 other foxes watch.",
    "digits and code": "24*7=168\n#### 168\ndef count(words):\n    return {word: 1}\n",
    "characters": "cafés 🙂🎉 東京は naïve e\u0301 👩‍👩‍👧 Привет",
    "spaces": "a" + " " * 9 + "b\t\t c\n\n   d  ",
}


def bytewise(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def chunks(text: str, size: int) -> list[bytes]:
    data = text.encode()
    return [data[i : i + size] for i in range(0, len(data), size)]


@torch.no_grad()
def from_scratch(source, parts):
    """After every piece: each model's logits (|S|,) and whether there are any."""
    reader, result = Reader(source.vocabulary), []
    for piece in parts:
        reader.push(piece)
        ids = begin_tokens(source.vocabulary) + reader.ids
        speaks = bool(ids) and not reader.pending
        logits = {}
        if speaks:
            for name, model in source.models.items():
                logits[name] = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        result.append((logits, speaks))
    return result


def compare(found, speaks, expected):
    """found: (positions, |S|) by model; speaks: (positions,)."""
    assert speaks.tolist() == [said for _, said in expected]
    for position, (logits, _) in enumerate(expected):
        for name, values in logits.items():
            torch.testing.assert_close(found[name][position], values, atol=2e-4, rtol=1e-4)


@pytest.fixture(params=["full", "sliding", "hybrid, begin token", "residual"])
def source(request, parts, sliding, loaded):
    if request.param == "full":
        return parts.pair
    if request.param == "sliding":
        return ContrastPair(sliding, sliding)
    if request.param == "residual":
        return parts.residual(0.2)
    return ContrastPair(loaded["target"], loaded["target"])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("cut", [1, 3])
def test_piece_by_piece(source, text, cut):
    parts = chunks(text, cut)
    reading = Reading(source, set(source.models), 1)
    steps = [reading.read([[piece]], 1) for piece in parts]
    found = {name: torch.cat([logits[name][0] for logits, _ in steps]) for name in source.models}
    compare(found, torch.cat([speaks[0] for _, speaks in steps]), from_scratch(source, parts))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("cut", [1, 3])
def test_all_at_once_then_on(source, text, cut):
    parts = chunks(text, cut)
    first = len(parts) * 2 // 3
    reading = Reading(source, set(source.models), 1)
    steps = [reading.read([parts[:first]], first), reading.read([parts[first:]], len(parts) - first)]
    found = {name: torch.cat([logits[name][0] for logits, _ in steps]) for name in source.models}
    compare(found, torch.cat([speaks[0] for _, speaks in steps]), from_scratch(source, parts))


def test_only_the_last_positions_are_answered(source):
    parts = chunks(TEXTS["words"], 2)
    logits, speaks = Reading(source, set(source.models), 1).read([parts], 3)
    compare({name: values[0] for name, values in logits.items()}, speaks[0], from_scratch(source, parts)[-3:])


def test_left_padded_rows_of_different_texts_and_their_reordering(source):
    rows = [chunks(text, 3) for text in TEXTS.values()]
    width = max(map(len, rows))
    rows = [[b""] * (width - len(row)) + row for row in rows]
    more = [[b" fo", b"x", b"es \xf0\x9f", b"\x99\x82", b"\xff"][i:] + [b"!"] * i for i in range(4)]
    reading = Reading(source, set(source.models), 4)
    logits, speaks = reading.read(rows, width)
    expected = [from_scratch(source, row) for row in rows]
    for row in range(4):
        compare({name: values[row] for name, values in logits.items()}, speaks[row], expected[row])
    order = [2, 0, 0, 3]
    reading.reorder(torch.tensor(order))
    rows = [rows[i] for i in order]
    for step in range(5):
        logits, speaks = reading.read([[new[step]] for new in more], 1)
        for row in range(4):
            expected = from_scratch(source, rows[row] + more[row][: step + 1])[-1:]
            compare({name: values[row] for name, values in logits.items()}, speaks[row], expected)


def test_steps_that_add_no_token_repeat_the_last_scores(parts):
    source = parts.pair
    reading = Reading(source, {"tuned"}, 2)
    before, _ = reading.read([[b"The fox"], [b"a"]], 1)
    after, speaks = reading.read([[b""], [b""]], 1)
    assert torch.equal(before["tuned"], after["tuned"])
    assert speaks.tolist() == [[True], [True]]
    _, speaks = reading.read([[b"\xf0\x9f"], [b""]], 1)
    assert speaks.tolist() == [[False], [True]]


def test_before_any_text_a_source_without_begin_token_has_no_say(parts, loaded):
    for source, says in ((parts.pair, False), (ContrastPair(loaded["target"], loaded["target"]), True)):
        _, speaks = Reading(source, set(source.models), 1).read([[b"", b"\xf0", b"\x9f\x99\x82"]], 3)
        assert speaks.tolist() == [[says, False, True]]


def test_an_id_that_is_taken_back_and_comes_again_is_read_again(parts, vocabularies):
    """Texts whose ids shrink: a longer token replaces several, down to one that was read long ago."""
    words = sorted(vocabularies["byte_level"].token_bytes, key=lambda data: -len(data or b""))[:40]
    source = parts.pair
    shrunk = 0
    for word in words:
        pieces = [bytes([byte]) for byte in word]
        reader, lengths = Reader(source.vocabulary), []
        for piece in pieces:
            reader.push(piece)
            lengths.append(len(reader.ids))
        shrunk += any(b < a for a, b in pairwise(lengths))
        logits, speaks = Reading(source, {"tuned", "untuned"}, 1).read([pieces], len(pieces))
        compare({name: values[0] for name, values in logits.items()}, speaks[0], from_scratch(source, pieces))
    assert shrunk


def test_only_the_named_models_run(parts):
    source = parts.pair
    calls = []
    handle = source.models["untuned"].register_forward_hook(lambda *_: calls.append(1))
    try:
        logits, _ = Reading(source, {"tuned"}, 1).read([[b"fox"]], 1)
    finally:
        handle.remove()
    assert set(logits) == {"tuned"}
    assert not calls
