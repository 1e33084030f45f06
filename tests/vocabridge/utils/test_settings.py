"""Tests of configs, which check their numbers and choices."""

import re

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.options import BoundaryPolicy, Contender, Dtype, Regularizer, TrainingMethod
from vocabridge.training.config import TrainingConfig

MODELS = {"data": "test.jsonl", "base": "big", "value": "small"}


def test_the_name_of_a_choice_becomes_the_enum_member():
    training = TrainingConfig("small", method="lora", regularizer="released")
    assert training.method is TrainingMethod.LORA
    assert training.regularizer is Regularizer.RELEASED
    config = EvaluationConfig(**MODELS, policies=["heal"], contenders=("base", "byte-level"), dtype="float32")
    assert config.policies == (BoundaryPolicy.HEAL,)
    assert config.contenders == (Contender.BASE, Contender.BYTE_LEVEL)
    assert config.dtype is Dtype.FLOAT32


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dtype": "int8"}, "dtype cannot be 'int8'; choose among float32, bfloat16, float16"),
        ({"policies": ("guess",)}, "policies cannot be 'guess'; choose among skip, as-is, heal, lookahead"),
        ({"contenders": ("best",)}, "contenders cannot be 'best'; choose among base, donor, bridge"),
        (
            {"alphas": (0.5, 1e300), "validation": "v.jsonl"},
            "alphas cannot be 1e+300; give a number from -1000",
        ),
    ],
)
def test_a_choice_that_does_not_exist_or_a_number_out_of_range_is_an_error(setting, message):
    with pytest.raises(VocabridgeError, match=re.escape(message)):
        EvaluationConfig(**MODELS, **setting)


def test_the_default_learning_rate_depends_on_the_method():
    rates = [TrainingConfig("small", method=method).as_dict()["learning_rate"] for method in TrainingMethod]
    assert rates == [3e-4, 1e-3]
    assert TrainingConfig("small", learning_rate=0.5).peak_learning_rate == 0.5
