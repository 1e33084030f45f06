"""A setting without effect is refused by its option or causes a warning; a setting with an effect is used."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from vocabridge.alignment import Effect, UsageError, Vocabulary, align, make_builder, refuse_idle, warn_idle
from vocabridge.bridge.build import build_bridge, build_steering
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import save_bridge
from vocabridge.bridge.streaming import stream
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.evaluate import evaluate
from vocabridge.models.loading import load_model, load_weights
from vocabridge.models.value_network import new_value_network, save_value_network
from vocabridge.options import BoundaryPolicy, Contender, Regularizer
from vocabridge.training.config import TrainingConfig
from vocabridge.training.train import train_value_network


def weights_file(folder: Path, value_weight: int) -> Path:
    """Write a combination with the given weight for tuned and untuned, and weight 1 for the base."""
    combination = {
        "method": "informed",
        "form": "product",
        "base_weight": 1,
        "tuned_weight": value_weight,
        "untuned_weight": value_weight,
    }
    path = folder / "weights.json"
    path.write_text(json.dumps({"combination": combination}))
    return path


def test_only_the_first_setting_without_effect_is_refused(caplog):
    idle = Effect("b", given=True, effective=False, advice="a is 0; raise a")
    sound = [Effect("a", given=True, effective=True, advice=""), Effect("c", given=False, effective=False, advice="")]
    refuse_idle(*sound)
    with pytest.raises(UsageError, match=r"^b has no effect here: a is 0; raise a$") as refused:
        refuse_idle(*sound, idle, idle._replace(setting="d"))
    assert refused.value.setting == "b"
    with caplog.at_level(logging.WARNING, "vocabridge"):
        warn_idle(*sound, idle)
    assert [record.getMessage() for record in caplog.records] == ["b has no effect here: a is 0; raise a"]


# --- the library -------------------------------------------------------------------------------------------------


@pytest.fixture
def items(tmp_path) -> Path:
    """Write items without an answer."""
    path = tmp_path / "items.jsonl"
    lines = [{"prompt": f"{n} foxes?", "response": f" It is {2 * n}."} for n in (3, 12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def names(model_folders, model_pair):
    return {
        "base": str(model_folders.target),
        "value": str(model_folders.tuned),
        "untuned": str(model_folders.source),
    }


@pytest.mark.parametrize(
    ("setting", "contenders", "given"),
    [
        ("policy", [Contender.BASE], {"policies": (BoundaryPolicy.HEAL,)}),
        ("alpha", [Contender.BASE], {"alphas": (0.5,)}),
        ("combination", [Contender.BASE], {"combination": "weights"}),
        ("alignment", [Contender.BASE], {"alignment": "pair"}),
        ("validation", [Contender.BASE], {"validation": "validation"}),
        ("ceiling", [Contender.BASE], {"ceiling": "target"}),
        ("control", [Contender.BASE], {"control": "values"}),
    ],
)
def test_an_evaluation_warns_of_settings_that_no_contender_uses(
    names, items, model_pair, model_folders, tmp_path, caplog, setting, contenders, given
):
    weights = weights_file(tmp_path, value_weight=1)
    held_out = tmp_path / "validation.jsonl"
    held_out.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n")
    values, target = tmp_path / "values", str(model_folders.target)
    save_value_network(new_value_network(target, method="lora", rank=1), values, {})
    files = {"weights": weights, "pair": model_pair, "validation": held_out, "target": target, "values": str(values)}
    given = {name: files.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    with caplog.at_level(logging.WARNING, "vocabridge"):
        evaluate(EvaluationConfig(items, **names, contenders=contenders, answers=0, **given))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.partition(" has no effect here: ")[0] == setting
    assert "no contender that is measured uses it; add one that does" in warning


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        ("tolerance", {"tolerance": 0.1}),
        ("extract", {"extract": "is (.*)"}),
        ("extract", {"response": " {response}", "extract": "was (.*)"}),
    ],
)
def test_an_evaluation_refuses_a_tolerance_and_a_pattern_that_nothing_uses(names, items, setting, given):
    with pytest.raises(UsageError, match=rf"^{setting} has no effect here: "):
        evaluate(EvaluationConfig(items, **names, **given))


def test_a_pattern_is_used_if_items_or_their_responses_have_an_answer(names, items):
    template = {"response": " {response}", "extract": "is (.*)\\."}
    report = evaluate(EvaluationConfig(items, **names, **template, contenders=(Contender.BASE,), max_new_tokens=2))
    assert report.answered == 2


def test_an_evaluation_without_answers_warns_of_settings_of_answers(names, items, caplog):
    template = {"response": " {response}", "extract": "is (.*)\\."}
    with caplog.at_level(logging.WARNING, "vocabridge"):
        without_answers = {"contenders": (Contender.BASE,), "answers": 0, "max_new_tokens": 2}
        evaluate(EvaluationConfig(items, **names, **template, **without_answers))
    settings = [record.getMessage().partition(" has no effect here: ")[0] for record in caplog.records]
    assert settings == ["extract", "max_new_tokens"]


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        ("patience", {"patience": 1}),
        ("rank", {"rank": 4}),
        ("regularizer_weight", {"regularizer": Regularizer.RELEASED, "regularizer_weight": 0.5}),
    ],
)
def test_training_refuses_settings_without_effect(items, model_folders, tmp_path, setting, given):
    with pytest.raises(UsageError, match=rf"^{setting} has no effect here: "):
        train_value_network(TrainingConfig(str(model_folders.source), **given), items, tmp_path / "values")
    assert not (tmp_path / "values").exists()


def test_a_stream_refuses_top_p_at_temperature_0(model_folders, names):
    bridge = build_bridge(**names, dtype=torch.float32)
    with pytest.raises(UsageError, match=r"^top_p has no effect here: nothing is drawn at temperature 0"):
        stream(bridge, "a", max_new_tokens=1, top_p=0.5)
    assert isinstance("".join(stream(bridge, "a", max_new_tokens=1, top_p=0.5, temperature=1.0)), str)


def test_a_byte_level_bridge_refuses_an_alignment(names, model_pair):
    with pytest.raises(UsageError, match=r"^alignment has no effect here: a byte-level bridge projects nothing"):
        build_bridge(**names, byte_level=True, alignment=model_pair)


def test_weights_of_the_base_alone_are_refused(names, model_pair, tmp_path):
    weights = weights_file(tmp_path, value_weight=0)
    target = Vocabulary.load(names["base"])
    pair = {"untuned": names["untuned"], "alignment": model_pair}
    with pytest.raises(UsageError, match=r"^combination has no effect here: .* gives the value source no weight"):
        build_steering(target, names["value"], **pair, combination=weights)


def test_a_local_model_refuses_a_revision(names):
    with pytest.raises(UsageError, match=r"^revision has no effect here: .* is local and has no revisions"):
        load_weights(names["base"], revision="main")


def test_jobs_are_refused_if_the_method_shares_no_work(model_folders, text):
    source, target = model_folders.source, model_folders.target
    for method, corpus in (("identical-bytes", None), ("edit-distance", [text]), ("default", None)):
        with pytest.raises(UsageError, match=rf"^jobs has no effect here: the method {method} shares no counting"):
            align(source, target, method=method, corpus=corpus, jobs=2, cache=False)
    assert [make_builder(method).shares for method in ("identical-bytes,default", "identical-bytes,prefix")] == [
        True,
        False,
    ]


# --- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        (("generate", ".", "a", "--top-p", 0.5), "--top-p", "nothing is drawn at temperature 0; give --temperature"),
        (("generate", ".", "a", "--seed", 1), "--seed", "nothing is drawn at temperature 0; give --temperature"),
        (("generate", ".", "a", "--tolerance", 0.1), "--tolerance", "only --byte-level has a tolerance"),
        (("generate", "EMPTY", "a", "--value-device", "cpu"), "--value-device", "this bridge has no value source"),
        (
            ("align", "SOURCE", "TARGET", "--method", "identical-bytes", "--jobs", 2),
            "--jobs",
            "shares no counting of text",
        ),
        (
            ("pairs", "SOURCE", "TARGET", "-o", "p", "--method", "identical-bytes", "--jobs", 2),
            "--jobs",
            "shares no counting",
        ),
        (("train", "DATA", "-o", "v", "--source", "SOURCE", "--rank", 4), "--rank", "only an adapter has one"),
        (
            ("train", "DATA", "-o", "v", "--source", "SOURCE", "--patience", 1),
            "--patience",
            "needs texts to validate on",
        ),
        (("eval", "MODELS", "--contenders", "base", "--extract", "is (.*)"), "--extract", "no item has an answer"),
        (("eval", "MODELS", "--tolerance", 0.1), "--tolerance", "add --byte-level"),
        (
            ("score", "PAIR", "--model", "SOURCE", "--text", "DATA", "--positions", 5),
            "--positions",
            "only --against-exact",
        ),
        (
            ("score", "PAIR", "--model", "SOURCE", "--text", "DATA", "--base", "TARGET"),
            "--base",
            "only --against-exact",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_the_command_line_names_the_option_and_exits_with_2(
    run, names, items, model_pair, model_folders, tmp_path, command, option, message
):
    if "EMPTY" in command:
        save_bridge(Bridge(load_model(names["base"]), []), tmp_path / "empty")
    words = {
        "EMPTY": [tmp_path / "empty"],
        "SOURCE": [model_folders.source],
        "TARGET": [model_folders.target],
        "PAIR": [model_pair],
        "DATA": [items],
        "MODELS": [*(word for name, model in names.items() for word in (f"--{name}", model)), "--data", items],
    }
    done = run(*(word for argument in command for word in words.get(str(argument), [argument])), COLUMNS=200)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert f"Invalid value for {option}: It has no effect here: " in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_stop_string_is_refused_before_anything_is_loaded(run):
    done = run("generate", ".", "a", "--stop", "", "--stop", "b")
    assert done.returncode == 2
    assert "Invalid value for --stop: It is empty" in done.stderr


def test_a_bridge_of_strength_0_warns_of_its_limits(run, names, model_pair, tmp_path):
    pair = ["--base", names["base"], "--value", names["value"], "--untuned", names["untuned"]]
    limits = ["--plausibility-threshold", 0.1, "--policy", "heal"]
    done = run("bridge", "-o", tmp_path / "b", *pair, "--alignment", model_pair, *limits, "--strength", 0, COLUMNS=200)
    assert done.returncode == 0, done.stderr
    for name in ("plausibility_threshold", "policy"):
        assert f"{name} has no effect here: every strength is 0" in done.stderr
    done = run("bridge", "-o", tmp_path / "b", *pair, "--alignment", model_pair, *limits, COLUMNS=200)
    assert "no effect" not in done.stderr
