"""Tests of the ranges of numeric settings, which the library checks before any work."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.streaming import stream
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.models.loading import find_device
from vocabridge.projection.strength import Schedule, from_json
from vocabridge.training.config import TrainingConfig
from vocabridge.training.train import train_value_network
from vocabridge.utils import ranges
from vocabridge.utils.ranges import Range


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (
            ranges.TEMPERATURE,
            (0, 0.0, 0.001, 1, 1000, np.float32(0.7)),
            (1e-320, -1, math.nan, math.inf, 1e4, "1", None),
        ),
        (ranges.TOP_P, (1, 1e-9), (0, 1.1, math.nan)),
        (ranges.TOLERANCES, (0, 0.999), (1, -1e-9)),
        (ranges.SEED, (0, 2**32 - 1, np.int64(7)), (10**400, -1, 2**32, 2**64, 1.0, True, math.nan)),
        (Range(2, 5, whole=True, below=True), (2, 4), (1, 5)),
    ],
)
def test_a_range_contains_its_numbers_and_no_others(range_, inside, outside):
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", -1.0),
        ("learning_rate", math.inf),
        ("learning_rate", 1e-320),
        ("regularizer_weight", math.inf),
        ("regularizer_weight", -0.1),
        ("seed", 2**64),
        ("seed", -1),
        ("epochs", 0),
        ("batch_size", 0),
        ("rank", 0),
        ("max_length", 1),
        ("gradient_accumulation", 0),
        ("patience", 0),
        ("layers", 0),
        ("epochs", 1.5),
    ],
)
def test_a_training_config_rejects_a_number_out_of_range(name, value):
    with pytest.raises(VocabridgeError, match=f"^{name} cannot be .*; give a "):
        replace(TrainingConfig(source="nowhere"), **{name: value})


@pytest.mark.parametrize(
    "setting",
    [{"temperature": 1e-320}, {"temperature": math.nan}, {"top_p": 0.0}, {"beams": 100_000}, {"max_new_tokens": 0}],
)
def test_generation_rejects_a_setting_out_of_range(setting):
    (value,) = setting.values()
    with pytest.raises(VocabridgeError, match=f"^cannot (write|draw).* {value}.*; give "):
        stream(None, "The", **{"max_new_tokens": 1} | setting)


@pytest.mark.parametrize("strength", [math.nan, math.inf, 1e300, True])
def test_a_strength_out_of_range_is_an_error(strength):
    with pytest.raises(VocabridgeError, match="is no strength"):
        from_json(strength)
    with pytest.raises(VocabridgeError, match="a strength cannot go from"):
        Schedule(0.0, strength, 5)


@pytest.mark.parametrize(
    "setting",
    [{"limit": 0}, {"answers": -1}, {"max_new_tokens": 10**12}, {"tolerance": math.nan}, {"alphas": (1e300,)}],
)
def test_an_evaluation_rejects_a_number_out_of_range_before_it_reads_anything(setting):
    with pytest.raises(VocabridgeError, match="cannot be"):
        EvaluationConfig("nowhere.jsonl", base="nowhere", value="nowhere", **setting)


@pytest.mark.parametrize("device", ["cuda:99", "nowhere", "meta"])
def test_training_on_a_missing_device_is_an_error_before_anything_is_loaded(tmp_path, device):
    with pytest.raises(VocabridgeError, match=device):
        train_value_network(TrainingConfig(source="nowhere"), "nowhere.jsonl", Path(tmp_path / "values"), device=device)
    assert not (tmp_path / "values").exists()


def test_an_existing_device_is_found():
    assert find_device("cpu").type == "cpu"
