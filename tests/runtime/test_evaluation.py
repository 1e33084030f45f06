"""The evaluation on tiny models: figures that can be checked from outside, intervals, and the whole path."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.combination import Carry, Combination
from vocabridge.contestants import donor, generations, response_bits
from vocabridge.evaluation import _contestants, evaluate
from vocabridge.examples import Example, load_examples, tokenize
from vocabridge.intervals import ratio
from vocabridge.value_network import new_value_network, save_value_network

LONGEST = "vocabridge.contestants._LONGEST_ANSWER"


def write(path, numbers):
    lines = [
        {
            "prompt": f"Question: {n} foxes?\nAnswer:",
            "response": f" {n}*2={2 * n} foxes. 🙂\n#### {2 * n}\n",
            "answer": str(2 * n),
            "id": str(n),
            "template": n % 2,
        }
        for n in numbers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path, model_folders, monkeypatch):
    """Test data, validation data, an alignment and a fresh value network."""
    monkeypatch.setattr(LONGEST, 6)
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(tmp_path / "pair.safetensors")
    network = new_value_network(str(model_folders.source), method="lora", rank=1)
    save_value_network(network, tmp_path / "values", {})
    write(tmp_path / "test.jsonl", [3, 12, 24, 345])
    write(tmp_path / "validation.jsonl", [5, 14])
    return tmp_path


def items(templates):
    return [Example("p", "r", None, str(i), str(template)) for i, template in enumerate(templates)]


def test_a_ratio_is_sum_over_sum_inside_its_interval():
    rng = np.random.default_rng(1)
    above, below = rng.uniform(1, 2, 40), rng.uniform(1, 2, 40)
    found = ratio(above, below, items(range(40)))
    assert found.value == pytest.approx(above.sum() / below.sum())
    assert found.low < found.value < found.high
    assert ratio(above, below, items(range(40))) == found


def test_equal_contestants_differ_by_exactly_0():
    bits = np.random.default_rng(1).uniform(1, 2, 40)
    found = ratio(bits, bits, items(range(40)), lambda value: value - 1)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_items_of_one_template_are_resampled_together():
    values = np.repeat(np.random.default_rng(1).uniform(1, 2, 10), 10)
    ones = np.ones_like(values)
    apart, together = ratio(values, ones, items(range(100))), ratio(values, ones, items(np.arange(100) // 10))
    assert apart.value == pytest.approx(together.value)
    assert together.high - together.low > 2 * (apart.high - apart.low)
    alone = ratio(values, ones, items([0] * 100))
    assert alone.low == alone.high == pytest.approx(alone.value)


def test_an_interval_is_a_95_percent_interval():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(5, 1, 50)
        found = ratio(values, np.ones(50), items(range(50)))
        hits += found.low <= 5 <= found.high
    assert 0.88 < hits / 200 < 0.99


def test_bits_are_those_of_plain_forwards(parts, files):
    examples = load_examples(files / "test.jsonl")
    bridge = parts.bridge()
    base, alone, bridged = (response_bits(c, examples, lambda *_: None) for c in _contestants(bridge))
    for found, model in ((base, parts.base), (alone, parts.tuned)):
        for bits, example in zip(found, examples, strict=True):
            tokens = tokenize(example, model.vocabulary)
            with torch.no_grad():
                log_p = model.model(torch.tensor([tokens.ids])).logits[0].log_softmax(-1)
            expected = -sum(log_p[i - 1, tokens.ids[i]].item() for i in range(tokens.first, len(tokens.ids)))
            assert bits == pytest.approx(expected / math.log(2), rel=1e-4)
    assert (bridged != base).all()


def test_the_donor_of_a_value_network_is_its_base_with_it(parts):
    source = parts.residual(0.2)
    ids = torch.tensor([source.vocabulary.encode("The quick brown fox").ids.tolist()])
    with torch.no_grad():
        found = donor(source)(ids).logits
        expected = source.models["base"](ids).logits + source.models["value"](ids).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert donor(parts.pair) is parts.tuned.model


def test_answers_are_generated_in_the_order_of_the_items_and_stop_when_complete(parts, monkeypatch):
    monkeypatch.setattr(LONGEST, 12)
    examples = [Example(p, "r", "1", p, p) for p in ("The lazy dog, and 12", "a", "Question: 7")]
    contestant = _contestants(parts.bridge())[0]
    together = generations(contestant, examples, lambda *_: None)
    alone = [generations(contestant, [example], lambda *_: None)[0] for example in examples]
    assert together == alone
    stopped = generations(contestant, [Example("#### 12\n", "r", "1", "x", "x")], lambda *_: None)
    assert len(stopped) == 1


def test_the_whole_path(files, model_folders):
    told = []
    report = evaluate(
        str(model_folders.target),
        str(files / "values"),
        files / "test.jsonl",
        alignment=files / "pair.safetensors",
        validation=files / "validation.jsonl",
        ceiling=str(model_folders.tuned),
        answers=2,
        progress=lambda *args: told.append(args),
    )
    assert [one.name for one in report.measured] == ["base", "donor alone", "bridge", "ceiling"]
    assert (report.items, report.answered, len(report.samples)) == (4, 2, 2)
    assert report.combination == report.fits[0].combination
    assert {fit.combination.carry for fit in report.fits} == set(Carry)
    base, _, bridge, ceiling = (one.bits_per_byte.value for one in report.measured)
    assert report.gap_recovered.value == pytest.approx((bridge - base) / (ceiling - base))
    assert report.bridge_against_base.value == pytest.approx(bridge / base - 1)
    assert told
    assert all(len(row) == len(report.header) for row in report.rows())
    report.save(files / "report.json")
    saved = json.loads((files / "report.json").read_text())
    assert saved["combination"] == report.combination.as_dict()
    assert Combination.load(files / "report.json") == report.combination
    assert json.dumps(report.as_dict()) == json.dumps(saved)


def test_a_fresh_value_network_is_worth_exactly_nothing(files, model_folders):
    Combination(Carry.LINEAR).save(files / "weights.json")
    report = evaluate(
        str(model_folders.target),
        str(files / "values"),
        files / "test.jsonl",
        alignment=files / "pair.safetensors",
        combination=files / "weights.json",
        ceiling=str(model_folders.target),
        limit=3,
    )
    assert report.items == 3
    assert report.gap_recovered is None  # the ceiling is the base: there is no gap
    difference = report.bridge_against_base
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert report.measured[0].accuracy == report.measured[2].accuracy
    assert all(sample.generations["base"] == sample.generations["bridge"] for sample in report.samples)


def test_a_contrast_pair_by_name(files, model_folders):
    report = evaluate(
        str(model_folders.target),
        str(model_folders.tuned),
        files / "test.jsonl",
        untuned=str(model_folders.source),
        alignment=files / "pair.safetensors",
        limit=1,
        answers=0,
    )
    assert [one.accuracy for one in report.measured] == [None] * 3
    assert report.rows()[0][2] == "-"


def test_what_is_refused(files, model_folders):
    arguments = {"alignment": files / "pair.safetensors", "validation": files / "validation.jsonl"}
    names = str(model_folders.target), str(files / "values")
    with pytest.raises(VocabridgeError, match="leave one out"):
        evaluate(*names, files / "test.jsonl", **arguments, combination=files / "weights.json")
    write(files / "validation.jsonl", [3, 5])
    with pytest.raises(VocabridgeError, match="1 of the test items"):
        evaluate(*names, files / "test.jsonl", **arguments)
    with pytest.raises(VocabridgeError, match="made for the target tokenizer"):
        evaluate(
            str(model_folders.source), str(files / "values"), files / "test.jsonl", alignment=arguments["alignment"]
        )
