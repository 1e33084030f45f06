"""Saved bridges and byte-level bridges in an evaluation of tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from vocabridge.alignment import UsageError, VocabridgeError, Vocabulary, align
from vocabridge.bridge.build import build_bridge, build_steering
from vocabridge.bridge.fitting import FittedCombination
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.contenders import CONTENDERS, label_of, measuring_order
from vocabridge.evaluation.contenders.bridge_setting import BridgeSetting, SteeringSetting, Trial
from vocabridge.evaluation.contenders.byte_level import ByteLevelSetting
from vocabridge.evaluation.contenders.definition import Setting
from vocabridge.evaluation.contenders.nudging import NudgingSetting
from vocabridge.evaluation.evaluate import evaluate
from vocabridge.evaluation.html_report import write_report
from vocabridge.evaluation.scoring import evaluated_model
from vocabridge.models.examples import load_examples
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_source
from vocabridge.options import BoundaryPolicy, Contender, ProjectionMethod
from vocabridge.projection import strength
from vocabridge.projection.combination import Combination

WEIGHTS = Combination(ProjectionMethod.INFORMED, 0.7, 0.6, 0.2)
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "reference" / "evaluation.schema.json").read_text())


@pytest.fixture
def names(model_folders):
    """Return the names of a base and of an expert pair with another vocabulary."""
    return {"base": str(model_folders.target), "value": str(model_folders.tuned), "untuned": str(model_folders.source)}


@pytest.fixture
def files(tmp_path, model_folders):
    source, target = (Vocabulary.load(folder) for folder in (model_folders.source, model_folders.target))
    align(source, target, method="retokenize", cache=False).save(tmp_path / "pair.safetensors")
    for name, numbers in (("test", [3, 12]), ("validation", [5, 14])):
        items = [{"prompt": f"{n} foxes and", "response": f" {2 * n} dogs.", "answer": str(2 * n)} for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return tmp_path


@pytest.fixture
def saved(files, names):
    """Return a function that saves a bridge with one steering for each strength."""

    def saved(*strengths, limits=None, policy=BoundaryPolicy.HEAL):
        base = load_model(names["base"])
        given = {"untuned": names["untuned"], "alignment": files / "pair.safetensors", "policy": policy}
        steerings = [build_steering(base.vocabulary, names["value"], strength=alpha, **given) for alpha in strengths]
        for steering in steerings:
            steering.combination = WEIGHTS
        save_bridge(Bridge(base, steerings, limits), files / "bridge")
        return files / "bridge"

    return saved


def run(files, records=None, **settings):
    config = EvaluationConfig(files / "test.jsonl", **{"max_new_tokens": 4, "answers": 1} | settings)
    report = evaluate(config, records=records)
    jsonschema.validate(json.loads(json.dumps(report.as_dict())), SCHEMA)
    assert all(len(row) == len(report.COSTS) for row in report.costs())
    return report


def named(report, kind):
    return next(one for one in report.measured if one.name == label_of(kind))


def bits_per_byte(read, files):
    examples = load_examples(files / "test.jsonl")
    return sum(map(read, examples)) / sum(len(one.response.encode()) for one in examples)


def test_a_saved_bridge_is_measured_with_its_own_settings(files, saved):
    limits = SteeringLimits(plausibility_threshold=1e-30)
    folder = saved(strength.Schedule(1.0, 0.25, 3), limits=limits)
    report = run(files, bridge=folder, validation=files / "validation.jsonl")
    assert [one.name for one in report.measured] == [
        label_of(kind) for kind in Contender if kind not in (Contender.BYTE_LEVEL, Contender.CONTROL, Contender.CEILING)
    ]
    assert named(report, Contender.BRIDGE).setting == {
        "combination": WEIGHTS.as_dict(),
        "policy": "heal",
        "strength": {"start": 1.0, "end": 0.25, "tokens": 3},
        "limits": limits.as_dict(),
    }
    assert report.combination is None  # that of no strength
    bridge = load(folder)
    alone = evaluated_model("bridge", bridge, bridge.vocabulary)
    expected = bits_per_byte(lambda example: sum(alone.score_response(example)["bits"]), files)
    assert named(report, Contender.BRIDGE).bits_per_byte.value == pytest.approx(expected, rel=1e-6)
    assert (
        "alpha 1.0:0.25:3; heal; limits plausibility_threshold 1e-30"
        in {row[0]: row[-1] for row in report.costs()}["bridge"]
    )


def test_a_saved_bridge_and_its_models_by_name_give_the_same_results(files, saved, names):
    validation = files / "validation.jsonl"
    by_folder = run(files, bridge=saved(1.0, policy=BoundaryPolicy.LOOKAHEAD), validation=validation)
    (files / "weights.json").write_text(json.dumps(WEIGHTS.as_dict()))
    given = {**names, "alignment": files / "pair.safetensors", "combination": files / "weights.json"}
    by_name = run(files, **given, validation=validation)
    for first, second in zip(by_folder.measured, by_name.measured, strict=True):
        assert (first.name, first.bits_per_byte, first.accuracy) == (second.name, second.bits_per_byte, second.accuracy)
        if first.name != "bridge":
            assert first.setting == second.setting
    assert (by_folder.value, by_name.value) == (str(files / "bridge"), f"{names['value']} - {names['untuned']}")
    assert by_folder.config["base"] == by_name.config["base"]


def test_a_bridge_with_two_sources_has_no_donor_to_compare_with(files, saved):
    folder = saved(0.5, 0.25)
    report = run(files, bridge=folder, validation=files / "validation.jsonl")
    assert [one.name for one in report.measured] == ["base", "bridge"]
    assert report.combination is None
    assert [one["strength"] for one in named(report, Contender.BRIDGE).setting["steerings"]] == [0.5, 0.25]
    exact = run(files, bridge=folder, contenders=[Contender.BYTE_LEVEL], limit=1, answers=0, tolerance=0.01)
    bridge = load(folder, byte_level=True)
    bridge.set_tolerance(0.01)
    example = load_examples(files / "test.jsonl")[0]
    expected = bridge.bits(example.prompt, example.response) / len(example.response.encode())
    assert named(exact, Contender.BYTE_LEVEL).bits_per_byte.value == pytest.approx(expected, rel=1e-6)
    with pytest.raises(VocabridgeError, match="the contender donor needs a bridge with one value source"):
        run(files, bridge=folder, contenders=[Contender.DONOR])


def test_the_byte_level_bridge_uses_the_setting_of_the_bridge(files, names, tmp_path):
    given = {**names, "alignment": files / "pair.safetensors", "validation": files / "validation.jsonl"}
    report = run(
        files,
        **given,
        contenders=[Contender.BASE, Contender.BRIDGE, Contender.BYTE_LEVEL],
        alphas=(0.5, 0.75),
        tolerance=0.01,
        records=files / "run",
    )
    bridge, exact = (named(report, kind) for kind in (Contender.BRIDGE, Contender.BYTE_LEVEL))
    assert bridge.setting["strength"] in (0.5, 0.75)
    assert exact.setting == {
        "combination": bridge.setting["combination"],
        "strength": bridge.setting["strength"],
        "tolerance": 0.01,
    }
    source = load_value_source(names["value"], untuned=names["untuned"])
    steering = ByteLevelSteering(source, Combination.from_dict(report.combination))
    direct = ByteLevelBridge(load_model(names["base"]), [steering], tolerance=0.01)
    expected = bits_per_byte(lambda example: direct.bits(example.prompt, example.response), files)
    assert exact.bits_per_byte.value == pytest.approx(expected, rel=1e-6)
    assert exact.changed_tokens is None
    assert exact.accuracy is not None
    assert {one.against for one in report.differences} == {"base", "byte-level bridge"}
    sample = report.samples[0]
    assert sample.readings["byte-level bridge"]["ends"] == [*range(1, len(sample.reference.encode()) + 1)]
    assert all("byte-level bridge" in one.bits_per_byte for one in report.classes)
    write_report(report, tmp_path / "report.html")
    assert "byte-level bridge" in (tmp_path / "report.html").read_text()
    again = run(
        files, **given, contenders=[Contender.BYTE_LEVEL], alphas=(0.5, 0.75), tolerance=0.01, records=files / "run"
    )
    assert again.measured == [exact]


def test_with_a_common_vocabulary_byte_level_bits_are_those_of_the_byte_level_bridge(files, model_folders):
    model = str(model_folders.source)
    given = {"base": model, "value": str(model_folders.tuned), "untuned": model}
    report = run(files, **given, contenders=[Contender.BYTE_LEVEL, Contender.BASE], limit=1)
    bridge = build_bridge(model, given["value"], untuned=model, byte_level=True)
    example = load_examples(files / "test.jsonl")[0]
    expected = bridge.bits(example.prompt, example.response) / len(example.response.encode())
    assert named(report, Contender.BYTE_LEVEL).bits_per_byte.value == pytest.approx(expected, rel=1e-6)


def test_settings_that_contradict_the_bridge_are_refused(files, saved, names):
    folder = saved(1.0, limits=SteeringLimits(plausibility_threshold=0.1))
    with pytest.raises(VocabridgeError, match="byte-level needs a bridge without limits"):
        run(files, bridge=folder, contenders=[Contender.BYTE_LEVEL])
    with pytest.raises(UsageError, match="bridge has its own base, value, untuned; leave these out"):
        run(files, bridge=folder, **names)
    with pytest.raises(UsageError, match="bridge is not given, nor a base and a value source; give one of these"):
        run(files)
    for given, name in ({"policies": (BoundaryPolicy.LOOKAHEAD,)}, "policies"), ({"alphas": (0.5,)}, "alphas"):
        with pytest.raises(UsageError, match=f"bridge has its own {name}; leave these out"):
            run(files, bridge=folder, **given)
    with pytest.raises(VocabridgeError, match="is no bridge"):
        run(files, bridge=files / "nothing")
    first = {"records": files / "run", "contenders": [Contender.BASE]}
    run(files, bridge=folder, **first)
    with pytest.raises(VocabridgeError, match="another bridge"):
        run(files, **names, alignment=files / "pair.safetensors", **first)


def test_in_turn_every_model_is_loaded_once():
    loaded, held = [], frozenset()
    for contender in measuring_order():
        needs = CONTENDERS[contender].required_models
        loaded += needs - held
        held = needs
    assert sorted(loaded) == ["base", "ceiling", "control", "steerings"]
    assert sorted(measuring_order()) == sorted(Contender)


@pytest.mark.parametrize(
    ("setting", "summary"),
    [
        (
            BridgeSetting((SteeringSetting(WEIGHTS, BoundaryPolicy.HEAL, 0.5),), trials=(), by_alpha={0.5: 1.25}),
            "informed product, 0.70, 0.60, 0.20; alpha 0.5; heal",
        ),
        (
            BridgeSetting(
                (SteeringSetting(WEIGHTS), SteeringSetting(WEIGHTS, strength=strength.Schedule(1.0, 0.5, 3))),
                SteeringLimits(plausibility_threshold=0.25),
            ),
            "informed product, 0.70, 0.60, 0.20; as-is; informed product, 0.70, 0.60, 0.20; alpha 1.0:0.5:3; as-is; "
            "limits plausibility_threshold 0.25",
        ),
        (
            BridgeSetting(
                (SteeringSetting(WEIGHTS),),
                trials=(Trial(FittedCombination(WEIGHTS, 1.0, 1.5, None, 7), BoundaryPolicy.AS_IS),),
            ),
            "informed product, 0.70, 0.60, 0.20; as-is",
        ),
        (
            ByteLevelSetting((SteeringSetting(WEIGHTS, None, 2.0),), 0.01),
            "informed product, 0.70, 0.60, 0.20; alpha 2; tolerance 0.01",
        ),
        (NudgingSetting(0.35), "threshold 0.35"),
        (Setting(), ""),
    ],
    ids=["fitted", "saved with limits", "with trials", "byte-level", "nudging", "none"],
)
def test_a_setting_equals_that_of_its_json_form_and_has_a_summary(setting, summary):
    assert type(setting).from_dict(json.loads(json.dumps(setting.as_dict()))) == setting
    assert setting.summary == summary
