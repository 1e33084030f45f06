"""Limits: the mask, and its JSON form."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.limits import SteeringLimits

seeds = st.integers(0, 10_000)
SIZE = 50
EVERYWHERE = torch.ones(1, 1)


def logits(seed: int, spread: float = 3.0, n: int = 3) -> torch.Tensor:
    return torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed)) * spread


def limited(
    limits: SteeringLimits, z: torch.Tensor, p: torch.Tensor, change: torch.Tensor, active: torch.Tensor
) -> torch.Tensor:
    out = torch.empty_like(z)
    torch.add(z, change, out=out)
    limits.exclude(out, p, active)
    return out


@given(seeds)
def test_without_limits_the_change_is_added_and_nothing_else_done(seed):
    z, change, limits = logits(seed), logits(seed + 1), SteeringLimits()
    assert limits.gate(z.softmax(-1)) is None
    assert torch.equal(limited(limits, z, z.softmax(-1), change.clone(), EVERYWHERE), z + change)


@given(seed=seeds, spread=st.sampled_from([0.0, 1.0, 100.0]), plausible=st.floats(0, 1, exclude_min=True))
def test_the_mask_keeps_the_plausible_tokens_and_always_the_bases_best(seed, spread, plausible):
    z, change = logits(seed, spread), logits(seed + 1)
    p = z.softmax(-1)
    found = limited(SteeringLimits(plausibility_threshold=plausible), z, p, change.clone(), EVERYWHERE)
    is_kept = p >= plausible * p.amax(-1, keepdim=True)
    assert torch.equal(found.isfinite(), is_kept)
    assert torch.equal(found[is_kept], (z + change)[is_kept])
    assert found.gather(1, z.argmax(-1, keepdim=True)).isfinite().all()


def test_a_token_exactly_at_the_threshold_is_kept():
    z = torch.tensor([[0.5, 0.25, 0.249, 0.001]]).log()
    found = limited(
        SteeringLimits(plausibility_threshold=0.5),
        z,
        torch.tensor([[0.5, 0.25, 0.249, 0.001]]),
        torch.zeros(1, 4),
        EVERYWHERE,
    )
    assert found.isfinite().tolist() == [[True, True, False, False]]


@given(seed=seeds, added=st.floats(-50, 50), to=st.floats(-50, 50))
def test_constants_do_not_matter(seed, added, to):
    """Neither one added to the change nor one added to the base's logits."""
    z, change = logits(seed), logits(seed + 1)
    limits = SteeringLimits(plausibility_threshold=0.01)
    expected = limited(limits, z, z.softmax(-1), change.clone(), EVERYWHERE).softmax(-1)
    found = limited(limits, z + to, (z + to).softmax(-1), change + added, EVERYWHERE).softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_limits_compile_in_one_graph():
    limits = SteeringLimits(plausibility_threshold=0.01)

    def steer(z, change):
        return limited(limits, z, z.softmax(-1), change, EVERYWHERE)

    arguments = logits(0), logits(1)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(steer, fullgraph=True, backend="eager")(*arguments), steer(*arguments))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"plausibility_threshold": -0.1}, "plausibility_threshold is a fraction"),
        ({"plausibility_threshold": 1.1}, "plausibility_threshold is a fraction"),
        ({"plausibility_threshold": math.nan}, "plausibility_threshold is a fraction"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(VocabridgeError, match=message):
        SteeringLimits(**values)


@pytest.mark.parametrize("limits", [SteeringLimits(), SteeringLimits(0.1), SteeringLimits(plausibility_threshold=1.0)])
def test_limits_come_back_from_json(limits):
    assert SteeringLimits.from_dict(json.loads(json.dumps(limits.as_dict(), allow_nan=False))) == limits


@pytest.mark.parametrize(
    "values",
    [
        None,
        3,
        [],
        {"plausibel": 0.1},
        {"min_entropy": 0.0},
        {"plausibility_threshold": "much"},
        {"plausibility_threshold": []},
    ],
)
def test_json_that_is_no_limits_is_refused(values):
    with pytest.raises(VocabridgeError, match="is not a set of limits"):
        SteeringLimits.from_dict(values)
