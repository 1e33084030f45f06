"""The cache with room: what transformers' own holds, whatever is added and however its rows are ordered."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from vocabridge.decoding.preallocated_cache import PreallocatedCache


@given(steps=st.lists(st.one_of(st.integers(1, 60), st.lists(st.integers(0, 1), min_size=2, max_size=2)), max_size=12))
def test_it_holds_what_transformers_cache_holds(steps):
    """A number adds so many tokens, a list puts the rows into an order."""
    torch.manual_seed(0)
    caches = [PreallocatedCache(), DynamicCache()]
    for step in steps:
        if isinstance(step, list):
            for cache in caches:
                cache.reorder_cache(torch.tensor(step))
            continue
        for layer in range(2):
            new = torch.randn(2, 3, step, 4), torch.randn(2, 3, step, 4)
            ours, theirs = (cache.update(*new, layer) for cache in caches)
            assert all(map(torch.equal, ours, theirs))
        assert caches[0].get_seq_length() == caches[1].get_seq_length()


def test_what_it_holds_is_not_copied_at_each_step():
    cache, new = PreallocatedCache(), torch.ones(1, 1, 1, 2)
    places = {cache.update(new, new, 0)[0].data_ptr() for _ in range(600)}
    assert len(places) < 20
