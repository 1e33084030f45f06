"""A tree read in one forward says after every node what the model says after that sequence alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from vocabridge.tree import ROOT, TokenTree


@pytest.fixture(params=["full", "sliding", "hybrid"])
def model(request, loaded, sliding):
    """Llama; Mistral with a window of 5 tokens; Gemma-3 with a window of 8 in one layer of two."""
    return {"full": loaded["source"], "sliding": sliding, "hybrid": loaded["target"]}[request.param].model


def branches(seed: int) -> list[list[int]]:
    """Sequences that leave each other at any place; the longest is longer than the models' windows."""
    draw = random.Random(seed)
    found = [[draw.randrange(2, 400) for _ in range(20)]]
    for _ in range(8):
        kept = draw.choice(found)[: draw.randrange(1, 16)]
        found.append(kept + [draw.randrange(2, 400) for _ in range(draw.randrange(6))])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_node_is_read_as_its_own_sequence_alone(model, seed):
    tree = TokenTree()
    sequences = branches(seed)
    ends = [tree.add(tokens) for tokens in sequences]
    found = tree.log_probabilities(model)
    assert found.dtype == np.float32
    assert found.shape == (len(tree.tokens), model.config.vocab_size)
    for tokens, end in zip(sequences, ends, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1).numpy()
        np.testing.assert_allclose(found[tree.ancestors(end)], alone, atol=2e-4)


def test_the_order_in_which_branches_are_added_does_not_matter(model):
    sequences = branches(7)
    there, back = TokenTree(), TokenTree()
    first = [there.add(tokens) for tokens in sequences]
    second = [back.add(tokens) for tokens in reversed(sequences)][::-1]
    np.testing.assert_allclose(there.log_probabilities(model)[first], back.log_probabilities(model)[second], atol=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_shared_beginnings_are_kept_once(seed):
    sequences = branches(seed)
    tree = TokenTree()
    ends = [tree.add(tokens) for tokens in sequences]
    assert len(tree.tokens) == len({tuple(tokens[: i + 1]) for tokens in sequences for i in range(len(tokens))})
    for tokens, end in zip(sequences, ends, strict=True):
        assert [tree.tokens[node] for node in tree.ancestors(end)] == tokens
        assert tree.add(tokens) == end
    assert all(parent < node for node, parent in enumerate(tree.parents))


def test_a_sequence_grows_behind_a_node():
    tree = TokenTree()
    trunk = tree.add([5, 6])
    assert tree.add([], trunk) == trunk
    assert tree.add([]) == ROOT
    assert tree.add([7, 8], trunk) == tree.add([5, 6, 7, 8])
    assert tree.ancestors(ROOT) == []
    assert tree.add([6]) != trunk  # the same token behind another one is another node
    assert tree.parents.count(ROOT) == 2


def test_a_copy_grows_by_itself():
    tree = TokenTree()
    trunk = tree.add([5, 6])
    copy = tree.copy()
    copy.add([7], trunk)
    assert tree.tokens == [5, 6]
    assert tree.add([8], trunk) == copy.add([7], trunk)
    assert (tree.tokens, copy.tokens) == ([5, 6, 8], [5, 6, 7])
