"""JSON that is nested too deeply raises an error of one sentence with the file's name, whichever module reads it."""

import shutil

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.manifest import SavedBridge
from vocabridge.evaluation.description import _model
from vocabridge.evaluation.run_store import RunStore, Workers
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_network
from vocabridge.projection.combination import Combination
from vocabridge.utils.jsonl import read_records

DEEP = "[" * 100_000


def network(folder):
    (folder / "value_network.json").write_text(DEEP)
    return folder


def bridge(folder):
    (folder / "bridge.json").write_text(DEEP)
    return folder


def data(folder):
    (folder / "data.jsonl").write_text('{"text": "a"}\n' + DEEP + "\n")
    return folder / "data.jsonl"


def combination(folder):
    (folder / "report.json").write_text(DEEP)
    return folder / "report.json"


@pytest.mark.parametrize(
    ("read", "written", "says"),
    [
        (load_value_network, network, r"value_network\.json is not a value network's configuration \(it is nested"),
        (lambda folder: _model(str(folder)), network, r"value_network\.json is not a value network's configuration"),
        (SavedBridge.read, bridge, r"bridge\.json cannot be read \(it is nested too deeply\)"),
        (read_records, data, r"data\.jsonl, line 2, is not valid JSON \(it is nested too deeply\)"),
        (Combination.load, combination, r"report\.json is not a combination: it is nested too deeply"),
    ],
)
def test_a_file_that_is_nested_too_deeply_is_named(tmp_path, read, written, says):
    with pytest.raises(VocabridgeError, match=says):
        read(written(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_models_configuration_that_is_nested_too_deeply_is_refused(model_folders, tmp_path, name):
    shutil.copytree(model_folders.source, tmp_path / "model")
    (tmp_path / "model" / name).write_text(DEEP)
    with pytest.raises(VocabridgeError, match="model"):
        load_model(str(tmp_path / "model"))


def test_a_folder_of_records_whose_config_is_nested_too_deeply_is_named(tmp_path):
    (tmp_path / "run.json").write_text(DEEP)
    with pytest.raises(VocabridgeError, match=r"run\.json is damaged \(it is nested too deeply\)"):
        RunStore(tmp_path, {"limit": 1}, Workers())
