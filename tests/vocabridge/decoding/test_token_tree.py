"""Tests of token trees."""

from __future__ import annotations

import random

import pytest

from vocabridge.decoding.token_tree import ROOT, TokenTree


def branches(seed: int) -> list[list[int]]:
    """Return sequences that share prefixes of any length."""
    draw = random.Random(seed)
    sequences = [[draw.randrange(2, 400) for _ in range(20)]]
    for _ in range(8):
        prefix = draw.choice(sequences)[: draw.randrange(1, 16)]
        sequences.append(prefix + [draw.randrange(2, 400) for _ in range(draw.randrange(6))])
    return sequences


@pytest.mark.parametrize("seed", range(3))
def test_shared_prefixes_are_stored_once(seed):
    sequences = branches(seed)
    tree = TokenTree()
    ends = [tree.add(tokens) for tokens in sequences]
    assert len(tree.tokens) == len({tuple(tokens[: i + 1]) for tokens in sequences for i in range(len(tokens))})
    for tokens, end in zip(sequences, ends, strict=True):
        assert [tree.tokens[node] for node in tree.ancestors(end)] == tokens
        assert tree.add(tokens) == end
    assert all(parent < node for node, parent in enumerate(tree.parents))


def test_a_sequence_can_continue_after_any_node():
    tree = TokenTree()
    trunk = tree.add([5, 6])
    assert tree.add([], trunk) == trunk
    assert tree.add([]) == ROOT
    assert tree.add([7, 8], trunk) == tree.add([5, 6, 7, 8])
    assert tree.ancestors(ROOT) == []
    assert tree.add([6]) != trunk  # the same token after another parent is another node
    assert tree.parents.count(ROOT) == 2


def test_a_copy_is_independent():
    tree = TokenTree()
    trunk = tree.add([5, 6])
    copy = tree.copy()
    copy.add([7], trunk)
    assert tree.tokens == [5, 6]
    assert tree.add([8], trunk) == copy.add([7], trunk)
    assert (tree.tokens, copy.tokens) == ([5, 6, 8], [5, 6, 7])
