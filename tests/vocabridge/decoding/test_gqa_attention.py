"""Tests of grouped attention, with transformers' own attention as the reference."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vocabridge.decoding.gqa_attention import _grouped, grouped_attention


class Attention(torch.nn.Module):
    """The attribute of an attention layer that its attention function reads."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("new", [1, 4, 32, 33])  # from 33 on the mask is larger than keys and values
@pytest.mark.parametrize("masked", [True, False])
def test_it_equals_the_attention_of_transformers(groups, new, masked):
    torch.manual_seed(0)
    size = new + 3
    query, key, value = (torch.randn(2, heads, n, 8) for heads, n in ((2 * groups, new), (2, size), (2, size)))
    mask = torch.where(torch.rand(2, 1, new, size) < 0.6, 0.0, -1e9) if masked else None
    (grouped, weights), (expected, expected_weights) = (
        attend(Attention(groups), query, key, value, mask, scaling=0.2) for attend in (_grouped, sdpa_attention_forward)
    )
    torch.testing.assert_close(grouped, expected)
    assert weights is expected_weights is None


def test_masks_that_differ_by_head_are_left_to_transformers():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, n, 8) for heads, n in ((4, 3), (2, 7), (2, 7)))
    mask = torch.randn(1, 4, 3, 7)
    grouped, expected = (attend(Attention(2), query, key, value, mask) for attend in (_grouped, sdpa_attention_forward))
    torch.testing.assert_close(grouped[0], expected[0])


def test_a_bias_by_position_is_left_to_transformers():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, n, 8) for heads, n in ((4, 3), (2, 7), (2, 7)))
    mask, bias = torch.zeros(1, 1, 3, 7), torch.randn(1, 4, 3, 7)
    grouped, expected = (
        attend(Attention(2), query, key, value, mask, position_bias=bias)
        for attend in (_grouped, sdpa_attention_forward)
    )
    torch.testing.assert_close(grouped[0], expected[0])


@pytest.fixture
def eager(loaded):
    model = loaded["tuned"].model
    before, model.config._attn_implementation = model.config._attn_implementation, "eager"
    yield model
    model.config._attn_implementation = before


def test_the_attention_of_a_model_is_restored_after_the_context(loaded, eager):
    model = loaded["source"].model
    with grouped_attention([model, eager]):
        assert model.config._attn_implementation not in ("sdpa", "eager")
        assert eager.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"
    assert eager.config._attn_implementation == "eager"


def interrupted(model):
    with grouped_attention([model]):
        raise KeyboardInterrupt


def test_the_attention_of_a_model_is_restored_after_an_interrupted_forward(loaded):
    model = loaded["source"].model
    with pytest.raises(KeyboardInterrupt):
        interrupted(model)
    assert model.config._attn_implementation == "sdpa"
