"""Tests of the preallocated cache, with transformers' dynamic cache as the reference."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from vocabridge.decoding.preallocated_cache import PreallocatedCache


@given(steps=st.lists(st.one_of(st.integers(1, 60), st.lists(st.integers(0, 1), min_size=2, max_size=2)), max_size=12))
def test_it_holds_what_the_dynamic_cache_holds(steps):
    """A step that is a number adds that many tokens; a step that is a list reorders the rows."""
    torch.manual_seed(0)
    caches = [PreallocatedCache(), DynamicCache()]
    for step in steps:
        if isinstance(step, list):
            for cache in caches:
                cache.reorder_cache(torch.tensor(step))
            continue
        for layer in range(2):
            new = torch.randn(2, 3, step, 4), torch.randn(2, 3, step, 4)
            states, expected = (cache.update(*new, layer) for cache in caches)
            assert all(map(torch.equal, states, expected))
        assert caches[0].get_seq_length() == caches[1].get_seq_length()


def test_most_steps_copy_no_old_states():
    cache, new = PreallocatedCache(), torch.ones(1, 1, 1, 2)
    addresses = {cache.update(new, new, 0)[0].data_ptr() for _ in range(600)}
    assert len(addresses) < 20
