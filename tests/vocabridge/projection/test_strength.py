"""Strengths: where a schedule starts and ends, and how one is written."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocabridge.alignment import VocabridgeError
from vocabridge.projection.strength import Schedule, alpha, as_json, from_json, is_zero, parse

numbers = st.floats(-10, 10)
schedules = st.builds(Schedule, numbers, numbers, st.integers(1, 500))


@given(schedules)
def test_a_schedule_is_exact_at_both_ends_and_stays_there(schedule):
    n = torch.tensor([-7, 0, schedule.tokens, schedule.tokens + 1, 100_000])
    start, end = torch.tensor([schedule.start, schedule.end])
    assert torch.equal(alpha(schedule, n), torch.stack([start, start, end, end, end]).unsqueeze(-1))


@given(schedules)
def test_between_them_it_is_a_straight_line(schedule):
    n = torch.arange(schedule.tokens + 1)
    expected = torch.linspace(schedule.start, schedule.end, schedule.tokens + 1).unsqueeze(-1)
    torch.testing.assert_close(alpha(schedule, n), expected, atol=1e-4, rtol=0)


@given(numbers)
def test_a_constant_strength_is_unchanged(strength):
    assert alpha(strength, torch.arange(3)) == strength


@pytest.mark.parametrize(
    ("strength", "zero"),
    [
        (0.0, True),
        (-0.0, True),
        (0.1, False),
        (Schedule(0, 0, 5), True),
        (Schedule(1, 0, 5), False),
        (Schedule(0, 1, 5), False),
        (Schedule(1, -1, 2), False),
    ],
)
def test_a_strength_is_0_only_if_it_is_0_everywhere(strength, zero):
    assert is_zero(strength) is zero


@pytest.mark.parametrize(
    ("text", "strength"),
    [("0.5", 0.5), ("2", 2.0), ("-1", -1.0), ("1:0.2:64", Schedule(1, 0.2, 64)), ("0:1:1", Schedule(0, 1, 1))],
)
def test_text_for_the_command_line(text, strength):
    assert parse(text) == strength


@pytest.mark.parametrize("text", ["", "a", "nan", "inf", "1:2", "1:2:3:4", "1:0:2.5", "1::3", ":::", "1:0:x"])
def test_text_that_is_no_strength_is_refused(text):
    with pytest.raises(VocabridgeError, match="is no strength; give a number such") as error:
        parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["1:0:0", "1:0:-3"])
def test_a_schedule_takes_at_least_one_token(text):
    with pytest.raises(VocabridgeError, match="at least 1"):
        parse(text)


@pytest.mark.parametrize("text", ["nan:0:3", "1:inf:3"])
def test_a_schedule_is_between_numbers(text):
    with pytest.raises(VocabridgeError, match="finite"):
        parse(text)


@given(st.one_of(numbers, schedules))
def test_a_strength_comes_back_from_json(strength):
    assert from_json(json.loads(json.dumps(as_json(strength)))) == strength


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1",
        True,
        [],
        float("nan"),
        {},
        {"start": 1, "end": 0},
        {"start": 1, "end": 0, "tokens": None},
        {"start": "a", "end": 0, "tokens": 1},
        {"start": 1, "end": 0, "tokens": 1, "shape": "line"},
    ],
)
def test_json_that_is_no_strength_is_refused(value):
    with pytest.raises(VocabridgeError, match="is no strength"):
        from_json(value)
