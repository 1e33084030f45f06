"""Parts are checked before any model is loaded, because loading may take minutes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.evaluate import evaluate
from vocabridge.models.value_network import new_value_network, save_value_network
from vocabridge.training.config import TrainingConfig
from vocabridge.training.train import train_value_network


@pytest.fixture
def files(own, parts, data) -> Path:
    """Models, a value network, an alignment, and files that are none of these."""
    save_value_network(new_value_network(str(own / "source"), method="lora", rank=1), own / "values", {})
    shutil.copytree(own / "values", own / "without-weights")
    (own / "without-weights" / "value_network.safetensors").unlink()
    shutil.copytree(own / "values", own / "without-base")
    config = json.loads((own / "values" / "value_network.json").read_text())
    (own / "without-base" / "value_network.json").write_text(json.dumps(config | {"source": str(own / "gone")}))
    parts.alignment.save(own / "pair.safetensors")
    (own / "broken").write_bytes(b"{")
    (own / "empty").mkdir()
    return own


@pytest.fixture
def nothing_loads(monkeypatch):
    """Return a function after whose call any loading of a model fails the test."""

    def loaded(*_arguments, **_named):
        pytest.fail("a model is loaded")

    def stop() -> None:
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)

    return stop


WRONG = {
    "value that is not there": ({"value": "nowhere"}, "nowhere"),
    "value without weights": ({"value": "without-weights"}, "value_network.safetensors"),
    "value whose base is gone": ({"value": "without-base"}, "gone"),
    "untuned that is not there": ({"value": "tuned", "untuned": "nowhere"}, "nowhere"),
    "untuned without a model": ({"value": "tuned", "untuned": "empty"}, "holds no model"),
    "alignment that is none": ({"alignment": "broken"}, "broken"),
    "combination that is none": ({"combination": "broken"}, "broken"),
}


def arguments(files, wrong):
    """Return arguments of `build_bridge`, with some replaced."""
    given = {"value": str(files / "values"), "alignment": files / "pair.safetensors"}
    for name, value in wrong.items():
        given[name] = files / value if name in ("alignment", "combination") else str(files / value)
    return {"base": str(files / "target")} | given


@pytest.mark.parametrize("case", WRONG)
def test_a_bridge_is_built_only_where_all_of_its_parts_are_there(files, nothing_loads, case):
    nothing_loads()
    wrong, says = WRONG[case]
    with pytest.raises(VocabridgeError, match=says):
        build_bridge(**arguments(files, wrong))


@pytest.mark.parametrize("case", WRONG)
def test_an_evaluation_begins_only_where_all_of_its_parts_are_there(files, data, nothing_loads, case):
    nothing_loads()
    wrong, says = WRONG[case]
    with pytest.raises(VocabridgeError, match=says):
        evaluate(EvaluationConfig(data, **arguments(files, wrong)))


@pytest.mark.parametrize(
    ("wrong", "says"), [({"ceiling": "empty"}, "holds no model"), ({"control": "nowhere"}, "nowhere")]
)
def test_a_ceiling_and_a_control_are_looked_for_too(files, data, nothing_loads, wrong, says):
    nothing_loads()
    named = {name: str(files / value) for name, value in wrong.items()}
    with pytest.raises(VocabridgeError, match=says):
        evaluate(EvaluationConfig(data, **arguments(files, {}), **named))


@pytest.mark.parametrize("part", ["value-1", "alignment-1.safetensors"])
def test_a_saved_bridge_is_loaded_or_evaluated_only_whole(files, data, nothing_loads, part):
    save_bridge(build_bridge(**arguments(files, {})), files / "bridge")
    nothing_loads()
    (files / "bridge" / part).rename(files / "elsewhere")
    with pytest.raises(VocabridgeError, match=part):
        load(files / "bridge")
    with pytest.raises(VocabridgeError, match=part):
        evaluate(EvaluationConfig(data, bridge=files / "bridge"))


def test_a_byte_level_bridge_does_without_alignments(files):
    save_bridge(build_bridge(**arguments(files, {})), files / "bridge")
    (files / "bridge" / "alignment-1.safetensors").unlink()
    load(files / "bridge", byte_level=True)


@pytest.mark.parametrize(
    ("wrong", "texts", "says"),
    [
        ({}, {"data": "broken"}, "line 1, is not valid JSON"),
        ({}, {"validation": "broken"}, "line 1, is not valid JSON"),
        ({}, {"validation": "gone.jsonl"}, "there is no file"),
        ({"source": "./gone"}, {}, "no such file or folder"),
        ({"other_bases": ("./gone",)}, {}, "no such file or folder"),
    ],
)
def test_training_begins_only_where_bases_and_texts_are_there(files, data, nothing_loads, wrong, texts, says):
    nothing_loads()
    config = TrainingConfig(**{"source": str(files / "source")} | wrong)
    named = {name: files / value for name, value in texts.items()}
    with pytest.raises(VocabridgeError, match=says):
        train_value_network(config, named.get("data", data), files / "out", validation=named.get("validation"))
