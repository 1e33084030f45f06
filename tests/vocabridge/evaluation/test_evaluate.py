"""Evaluations of tiny models: every figure computed independently, interrupted runs, and all contenders at once."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.evaluation.answers import Extractor
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.contenders import CONTENDERS, label_of
from vocabridge.evaluation.evaluate import evaluate
from vocabridge.evaluation.intervals import ratio
from vocabridge.evaluation.measuring import response_bits
from vocabridge.evaluation.scoring import TokenLevelModel, donor, evaluated_donor, evaluated_model
from vocabridge.models.examples import Example, load_examples, tokenize
from vocabridge.models.value_network import new_value_network, save_value_network
from vocabridge.options import BoundaryPolicy, Contender, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.utils.progress import no_progress

BASE, DONOR, BRIDGE = "base", "donor alone", "bridge"


def write_items(path, numbers, **more):
    lines = [
        {
            "prompt": f"Question: {n} foxes?\nAnswer:",
            "response": f" {n}*2={2 * n} foxes. 🙂\n#### {2 * n}\n",
            "answer": str(2 * n),
            "id": str(n),
            "template": n % 2,
        }
        | more
        for n in numbers
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path, model_folders):
    """Write test data, validation data, an alignment and an untrained value network for each vocabulary."""
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(tmp_path / "pair.safetensors")
    for name, base in (("values", model_folders.source), ("own-values", model_folders.target)):
        save_value_network(new_value_network(str(base), method="lora", rank=1), tmp_path / name, {})
    write_items(tmp_path / "test.jsonl", [3, 12, 24, 345])
    write_items(tmp_path / "validation.jsonl", [5, 14])
    return tmp_path


@pytest.fixture
def measure(files, model_folders):
    """Return a function that evaluates these files, with short answers."""

    def measure(records=None, progress=no_progress, **settings):
        given = {"max_new_tokens": 6}
        if "bridge" not in settings:
            given |= {"base": str(model_folders.target), "value": str(files / "values")}
            given |= {"alignment": files / "pair.safetensors"}
        return evaluate(EvaluationConfig(files / "test.jsonl", **given | settings), records=records, progress=progress)

    return measure


def items(templates):
    return [Example("p", "r", None, str(i), str(template)) for i, template in enumerate(templates)]


def named(report, name):
    return next(contender for contender in report.measured if contender.name == name)


def test_a_ratio_is_a_sum_divided_by_a_sum_and_lies_in_its_interval():
    rng = np.random.default_rng(1)
    numerators, denominators = rng.uniform(1, 2, 40), rng.uniform(1, 2, 40)
    interval = ratio(numerators, denominators, items(range(40)))
    assert interval.value == pytest.approx(numerators.sum() / denominators.sum())
    assert interval.low < interval.value < interval.high
    assert ratio(numerators, denominators, items(range(40))) == interval


def test_equal_contenders_differ_by_exactly_0():
    bits = np.random.default_rng(1).uniform(1, 2, 40)
    interval = ratio(bits, bits, items(range(40)), lambda value: value - 1)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_items_of_one_template_are_resampled_together():
    values = np.repeat(np.random.default_rng(1).uniform(1, 2, 10), 10)
    ones = np.ones_like(values)
    separate, grouped = ratio(values, ones, items(range(100))), ratio(values, ones, items(np.arange(100) // 10))
    assert separate.value == pytest.approx(grouped.value)
    assert grouped.high - grouped.low > 2 * (separate.high - separate.low)
    single_group = ratio(values, ones, items([0] * 100))
    assert single_group.low == single_group.high == pytest.approx(single_group.value)


def test_an_interval_contains_the_true_value_in_about_95_percent_of_samples():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(5, 1, 50)
        interval = ratio(values, np.ones(50), items(range(50)))
        hits += interval.low <= 5 <= interval.high
    assert 0.88 < hits / 200 < 0.99


def test_bits_are_those_of_plain_forwards(parts, files):
    examples = load_examples(files / "test.jsonl")
    bridge = parts.bridge()
    contenders = [
        evaluated_model(BASE, bridge.base, bridge.vocabulary),
        evaluated_donor(DONOR, bridge.steering.source),
        evaluated_model(BRIDGE, bridge, bridge.vocabulary),
    ]
    base_bits, donor_bits, bridge_bits = (response_bits(c, examples, lambda *_: None) for c in contenders)
    for all_bits, model in ((base_bits, parts.base), (donor_bits, parts.tuned)):
        for bits, example in zip(all_bits, examples, strict=True):
            tokens = tokenize(example, model.vocabulary)
            with torch.no_grad():
                log_p = model.model(torch.tensor([tokens.ids])).logits[0].log_softmax(-1)
            expected = -sum(log_p[i - 1, tokens.ids[i]].item() for i in range(tokens.first, len(tokens.ids)))
            assert bits == pytest.approx(expected / math.log(2), rel=1e-4)
    assert (bridge_bits != base_bits).all()


def test_scores_of_a_response_have_the_ends_of_tokens_and_the_most_likely_tokens(parts, files):
    example = load_examples(files / "test.jsonl")[0]
    scores = evaluated_model(BASE, parts.base.model, parts.base.vocabulary).score_response(example)
    tokens = tokenize(example, parts.base.vocabulary)
    size = len(example.response.encode())
    assert len(scores["bits"]) == len(scores["ends"]) == len(scores["most_likely"]) == len(tokens.ids) - tokens.first
    assert scores["ends"] == sorted(scores["ends"])
    assert scores["ends"][-1] == size
    vocabulary = parts.base.vocabulary
    sizes = [len(vocabulary.token_bytes[i]) for i in tokens.ids[tokens.first :]]
    assert np.diff(scores["ends"]).tolist() == sizes[1:]
    assert 0 < scores["ends"][0] <= sizes[0]  # the first token may start in the prompt
    with torch.no_grad():
        best = parts.base.model(torch.tensor([tokens.ids])).logits[0, tokens.first - 1].argmax().item()
    data = vocabulary.token_bytes[best]
    assert scores["most_likely"][0] == (f"<{best}>" if data is None else data.decode(errors="backslashreplace"))


def test_the_donor_of_a_value_network_is_its_source_model_with_it(parts):
    source = parts.residual(0.2)
    ids = torch.tensor([source.vocabulary.encode("The quick brown fox").ids.tolist()])
    with torch.no_grad():
        logits = donor(source)(ids).logits
        expected = source.models["untuned"](ids).logits + source.models["value"](ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    assert donor(parts.pair) is parts.tuned.model


class CompleteAtOnce(Extractor):
    """An extractor for which every answer is complete after 1 token."""

    def is_complete(self, text):
        return True


def test_answers_stop_when_complete_and_a_batch_equals_its_rows(parts):
    prompts = ["The lazy dog, and 12", "a", "Question: 7"]
    contender = evaluated_model(BASE, parts.base.model, parts.base.vocabulary)
    batch = contender.generate(prompts, 12, Extractor())
    assert batch == [contender.generate([prompt], 12, Extractor())[0] for prompt in prompts]
    assert max(answer["tokens"] for answer in batch) == 12
    assert [answer["tokens"] for answer in contender.generate(prompts, 12, CompleteAtOnce())] == [1, 1, 1]


def test_a_report_has_all_contenders_with_all_their_figures(files, model_folders, measure):
    progress = []
    report = measure(
        validation=files / "validation.jsonl",
        ceiling=str(model_folders.tuned),
        control=str(files / "own-values"),
        answers=2,
        policies=(BoundaryPolicy.AS_IS, BoundaryPolicy.LOOKAHEAD),
        progress=lambda *args: progress.append(args),
    )
    by_default = [label_of(kind) for kind in Contender if not CONTENDERS[kind].is_slow]
    assert [one.name for one in report.measured] == by_default
    assert (report.items, report.templates, report.answered, len(report.samples)) == (4, 2, 2, 3)
    setting = named(report, BRIDGE).setting
    assert report.combination == setting["combination"] == setting["fits"][0]["combination"]
    assert {fit["combination"]["method"] for fit in setting["fits"]} == {method.value for method in ProjectionMethod}
    assert {fit["policy"] for fit in setting["fits"]} == {"as-is", "lookahead"}
    assert named(report, "mixture").setting["combination"]["form"] == "mixture"
    assert 0 <= named(report, "nudging").setting["threshold"] <= 1
    base, bridge, ceiling = (named(report, name).bits_per_byte.value for name in (BASE, BRIDGE, "ceiling"))
    assert named(report, BRIDGE).gap_recovered.value == pytest.approx((bridge - base) / (ceiling - base))
    against = {one.against: one for one in report.differences if one.metric == "bits per byte"}
    assert against[BASE].difference.value == pytest.approx(bridge / base - 1)
    assert set(against) == {*by_default} - {BRIDGE}
    assert named(report, BASE).changed_tokens == 0
    assert named(report, DONOR).changed_tokens is None
    assert {args[2].partition(":")[0] for args in progress} >= {*by_default}
    assert all(len(row) == len(report.header) for row in report.rows())
    assert all(len(row) == len(report.COSTS) for row in report.costs())
    report.save(files / "report.json")
    saved = json.loads((files / "report.json").read_text())
    assert Combination.load(files / "report.json").as_dict() == report.combination
    assert json.dumps(report.as_dict()) == json.dumps(saved)
    schema = json.loads((Path(__file__).parents[3] / "docs" / "reference" / "evaluation.schema.json").read_text())
    jsonschema.validate(saved, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(saved | {"measured": [saved["measured"][0] | {"token_ms": "fast"}]}, schema)


def test_an_untrained_value_network_changes_nothing(files, model_folders, measure):
    (files / "weights.json").write_text(json.dumps(Combination(ProjectionMethod.LINEAR).as_dict()))
    report = measure(
        combination=files / "weights.json",
        ceiling=str(model_folders.target),
        control=str(files / "own-values"),
        limit=3,
    )
    assert report.items == 3
    assert all(one.gap_recovered is None for one in report.measured)  # the ceiling is the base: there is no gap
    for one in report.differences:
        if one.against in (BASE, "ceiling", "same-vocabulary control"):
            assert (one.difference.value, one.difference.low, one.difference.high) == (0, 0, 0)
    assert named(report, BASE).accuracy == named(report, BRIDGE).accuracy
    assert named(report, BRIDGE).changed_tokens == 0
    assert all(sample.generations[BASE] == sample.generations[BRIDGE] for sample in report.samples)


def test_an_expert_pair_by_name_is_evaluated(files, model_folders):
    config = EvaluationConfig(
        files / "test.jsonl",
        base=str(model_folders.target),
        value=str(model_folders.tuned),
        untuned=str(model_folders.source),
        alignment=files / "pair.safetensors",
        limit=1,
        answers=0,
    )
    report = evaluate(config)
    assert [one.name for one in report.measured] == [BASE, DONOR, BRIDGE, "proxy-tuning"]
    assert [one.accuracy for one in report.measured] == [None] * 4
    assert len(report.rows()[0]) == 3


def test_every_metric_is_what_plain_sums_over_the_records_give(files, measure, model_folders):
    right = " 24*2=48 foxes. 🙂\n#### 48\n"
    write_items(files / "test.jsonl", [24], choices=[" 7", right, " The lazy dog"])
    with (files / "test.jsonl").open("a") as file:
        second = {"prompt": "The lazy", "response": " dog", "answer": "7", "choices": [" dog", " é"]}
        file.write(json.dumps(second) + "\n")
    report = measure(records=files / "run", contenders=[Contender.BASE, Contender.BRIDGE, Contender.DONOR])
    rows = [json.loads(line) for line in (files / "run" / "records-0.jsonl").read_text().splitlines()]
    sizes = [len(right.encode()), 4]

    def of(name, part):
        return [row for row in rows if (row["contender"], row["part"]) == (name, part)]

    for one in report.measured:
        bits = [sum(row["bits"]) for row in sorted(of(one.name, "reading"), key=lambda row: row["item"])]
        assert one.bits_per_byte.value == pytest.approx(sum(bits) / sum(sizes))
        bounds = sorted(b / size for b, size in zip(bits, sizes, strict=True))
        assert (one.bits_per_byte.low, one.bits_per_byte.high) == pytest.approx((bounds[0], bounds[1]))
        choices = {row["item"]: row["bits"] for row in of(one.name, "choosing")}
        assert choices[0][1] == pytest.approx(bits[0], rel=1e-3)
        chosen = (choices[0][1] == min(choices[0])) + (choices[1][0] == min(choices[1]))
        assert one.choice_accuracy.value == chosen / 2
        answers = {row["item"]: row["text"] for row in of(one.name, "writing")}
        extracted = [Extractor().find(answers[item]) for item in (0, 1)]
        assert one.accuracy.value == ((extracted[0] == "48") + (extracted[1] == "7")) / 2
        (cost,) = of(one.name, "cost")
        assert (one.token_ms, one.first_token_ms, one.peak_mb) == (cost["token_ms"], cost["first_ms"], cost["peak_mb"])
        assert cost["token_ms"] > 0
    base, bridge = ([row["most_likely"] for row in of(name, "reading")] for name in (BASE, BRIDGE))
    flat = [(a, b) for x, y in zip(base, bridge, strict=True) for a, b in zip(x, y, strict=True)]
    assert named(report, BRIDGE).changed_tokens == sum(a != b for a, b in flat) / len(flat)
    by_class = [one for one in report.classes if not one.name.endswith("boundary")]
    assert sum(one.tokens for one in by_class) == len(flat)
    ends = [[0, *row["ends"]] for row in of(BASE, "reading")]
    weight = {one.name: one.bits_per_byte[BRIDGE] for one in by_class}
    spread = [end - start for row in ends for start, end in pairwise(row)]
    assert sum(spread) == sum(sizes)
    assert min(weight.values()) <= named(report, BRIDGE).bits_per_byte.value <= max(weight.values())


def test_shuffled_choices_are_right_at_the_rate_of_chance(files, measure):
    rng = np.random.default_rng(0)
    with (files / "test.jsonl").open("w") as file:
        for n in range(40):
            choices = [f" {a} foxes" for a in rng.choice(900, size=4, replace=False)]
            fields = {"prompt": f"{n} and", "choices": choices, "response": choices[rng.integers(4)]}
            file.write(json.dumps(fields) + "\n")
    report = measure(contenders=[Contender.BASE, Contender.DONOR, Contender.BRIDGE])
    assert report.chosen == 40
    for one in report.measured:
        assert one.choice_accuracy.low <= 0.25 <= one.choice_accuracy.high
    assert one.accuracy is None


def test_an_interrupted_run_continues_and_reports_the_same(files, measure, monkeypatch):
    arguments = {"validation": files / "validation.jsonl", "records": files / "run", "answers": 3}
    uninterrupted = measure(**arguments | {"records": files / "other"})
    calls, score_response = [], TokenLevelModel.score_response

    def interrupted(contender, example):
        calls.append(contender.name)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return score_response(contender, example)

    monkeypatch.setattr(TokenLevelModel, "score_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(**arguments)
    with (files / "run" / "records-0.jsonl").open("a") as file:
        file.write('{"contender": "bridge", "part": "rea')
    report = measure(**arguments)
    assert len(calls) == 6 + 6 * 4 - 5  # 4 items for each of 6 contenders, one of them twice
    for resumed, expected in zip(report.measured, uninterrupted.measured, strict=True):
        assert (resumed.bits_per_byte, resumed.accuracy) == (expected.bits_per_byte, expected.accuracy)
        assert resumed.setting == expected.setting
    assert report.differences == uninterrupted.differences
    assert measure(**arguments) == report
    assert len(calls) == 25


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 2}, "another limit"),
        ({"validation": None}, None),
        ({"max_new_tokens": 7}, "another max_new_tokens"),
        ({"policies": (BoundaryPolicy.HEAL,)}, "another policies"),
    ],
)
def test_another_evaluation_in_the_folder_is_refused(files, measure, change, message):
    first = {"records": files / "run", "contenders": [Contender.BASE]}
    measure(**first)
    if message is None:  # an entry that the first call did not have
        measure(**first | {"validation": files / "validation.jsonl"})
        return
    with pytest.raises(VocabridgeError, match=message):
        measure(**first | change)


def test_other_models_or_data_are_refused(files, measure, model_folders):
    first = {"records": files / "run", "contenders": [Contender.BASE]}
    measure(**first)
    with (files / "test.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(VocabridgeError, match="another test data"):
        measure(**first)
    write_items(files / "test.jsonl", [3, 12, 24, 345])
    weights = bytearray((files / "values" / "value_network.safetensors").read_bytes())
    weights[-1] ^= 1
    (files / "values" / "value_network.safetensors").write_bytes(weights)
    with pytest.raises(VocabridgeError, match="altered or damaged"):
        measure(**first)


def test_missing_or_contradicting_settings_are_refused(files, model_folders, measure):
    arguments = {"alignment": files / "pair.safetensors", "validation": files / "validation.jsonl"}
    named = {"base": str(model_folders.target), "value": str(files / "values")}
    with pytest.raises(VocabridgeError, match="of several alphas"):
        measure(alphas=(0.5, 1.0))
    with pytest.raises(VocabridgeError, match="of several policies"):
        measure(policies=(BoundaryPolicy.HEAL, BoundaryPolicy.SKIP))
    with pytest.raises(VocabridgeError, match="nudging needs --validation"):
        measure(contenders=[Contender.NUDGING])
    with pytest.raises(VocabridgeError, match="ceiling needs --ceiling"):
        measure(contenders=[Contender.CEILING])
    with pytest.raises(VocabridgeError, match="another tokenizer than"):
        measure(control=str(files / "values"), contenders=[Contender.CONTROL])
    write_items(files / "validation.jsonl", [3, 5])
    with pytest.raises(VocabridgeError, match="1 of the test items"):
        evaluate(EvaluationConfig(files / "test.jsonl", **named, **arguments))
    with pytest.raises(VocabridgeError, match="made for the target tokenizer"):
        measure(base=str(model_folders.source))
