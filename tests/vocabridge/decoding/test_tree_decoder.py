"""Whatever grows or changes rows, a forest says after a node what the model says after its sequence alone."""

from __future__ import annotations

import copy

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabridge.decoding.token_tree import ROOT, TokenTree
from vocabridge.decoding.tree_decoder import _KEPT, TreeDecoder
from vocabridge.models.delta_model import DeltaModel
from vocabridge.options import Scheme

KINDS = {"full": "source", "hybrid": "target"}
"""Llama; Gemma-3 with a window of 8 in one layer of two. The third kind is Mistral with a window of 5."""


@pytest.fixture(params=["full", "sliding", "hybrid"])
def model(request, loaded, sliding):
    return sliding.model if request.param == "sliding" else loaded[KINDS[request.param]].model


@torch.no_grad()
def alone(models, name: str, tree: TokenTree, node: int) -> torch.Tensor:
    ids = torch.tensor([[tree.tokens[i] for i in tree.ancestors(node)]])
    other = getattr(models[name], "takes_logits_of", None)
    taken = {} if other is None else {"taken_logits": models[other](input_ids=ids, use_cache=False).logits}
    return models[name](input_ids=ids, use_cache=False, **taken).logits[0, -1].float()


def compare(forest: TreeDecoder, wanted: list[list[int]]) -> None:
    entries = [(row, node) for row, nodes in enumerate(wanted) for node in nodes]
    for name in forest.models if entries else ():
        found = forest.logits(entries)[name]
        assert found.shape[0] == len(entries)
        for logits, (row, node) in zip(found, entries, strict=True):
            expected = alone(forest.models, name, forest.trees[row], node)
            torch.testing.assert_close(logits, expected, atol=5e-4, rtol=1e-3)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """What happens to a forest: mostly it grows; seeds decide where and how much."""
    kinds = st.sampled_from(["grow", "grow", "grow", "again", "reorder"])
    return [
        (kind, draw(st.lists(st.integers(0, 999), min_size=6, max_size=6)))
        for kind in draw(st.lists(kinds, max_size=9))
    ]


def grow(tree: TokenTree, seed: int) -> int:
    """Some tokens behind some node; the last node."""
    generator = torch.Generator().manual_seed(seed)
    node = int(torch.randint(-1, len(tree.tokens), (1,), generator=generator)) if seed % 3 and tree.tokens else ROOT
    if seed % 3 == 1:
        node = len(tree.tokens) - 1
    size = int(torch.randint(0, 7, (1,), generator=generator))
    return tree.add(torch.randint(2, 390, (size,), generator=generator).tolist(), node)


@given(steps=steps())
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_says_what_the_model_says_after_each_sequence_alone(model, steps):
    follow(TreeDecoder({"one": model}, 3), steps)


@pytest.mark.quick(2)
@pytest.mark.parametrize("scheme", [Scheme.CASCADE, Scheme.CASCADE_PLUS])
@given(steps=steps())
@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_so_it_does_where_a_model_takes_anothers_logits(model, scheme, steps):
    value = DeltaModel(copy.deepcopy(model), scheme)
    torch.nn.init.normal_(value.projection.weight, std=0.3)
    follow(TreeDecoder({"value": value, "untuned": model}, 3), steps)


def follow(forest: TreeDecoder, steps: list[tuple[str, list[int]]]) -> None:
    """Does what the steps say, and compares after each."""
    for kind, seeds in steps:
        if kind == "reorder":
            forest.reorder(torch.tensor([seed % len(forest.trees) for seed in seeds[: 2 + seeds[5] % 3]]))
        wanted: list[list[int]] = []
        for tree, seed in zip(forest.trees, seeds, strict=False):
            last = grow(tree, seed) if kind == "grow" else ROOT
            nodes = {seed % len(tree.tokens), last} if tree.tokens else {last}
            wanted.append(sorted(nodes - {ROOT}))
        forest.read(wanted)
        compare(forest, wanted)
        forest._compact_at = 0  # give back what can be
        forest.commit_prefixes([nodes[-1] if nodes else ROOT for nodes in wanted])
        compare(forest, wanted)


def test_several_models_read_along(loaded):
    forest = TreeDecoder({"one": loaded["source"].model, "two": loaded["tuned"].model}, 1)
    for tokens in ([5, 6, 7], [8]):
        node = forest.trees[0].add(tokens, len(forest.trees[0].tokens) - 1)
        forest.read([[node]])
        compare(forest, [[node]])


def test_a_node_is_read_once_as_long_as_its_logits_are_kept(loaded, forwards):
    model = loaded["source"].model
    seen = forwards(model)
    forest = TreeDecoder({"one": model}, 1)
    trunk = forest.trees[0].add([5, 6, 7, 8])
    forest.read([[trunk]])
    for step in range(_KEPT - 1):
        forest.read([[trunk, forest.trees[0].add([9 + step], trunk)]])
    forest.read([[trunk]])
    assert seen == [(1, 4)] + [(1, 1)] * (_KEPT - 1)
    for step in range(_KEPT):
        forest.read([[forest.trees[0].add([50 + step], trunk)]])
    seen.clear()
    forest.read([[trunk]])
    assert seen == [(1, 1)]
    compare(forest, [[trunk]])


def test_only_as_many_logits_are_kept_as_may_be_asked_for(loaded):
    forest = TreeDecoder({"one": loaded["source"].model}, 2)
    node = ROOT
    for step in range(30):
        for tree in forest.trees:
            node = tree.add([5 + step], node if tree is forest.trees[0] else len(tree.tokens) - 1)
        forest.read([[len(tree.tokens) - 1] for tree in forest.trees])
        assert len(forest._chunks) <= _KEPT
        assert sum(logits["one"].shape[1] for logits in forest._chunks.values()) <= _KEPT


def test_rows_that_are_dropped_are_not_run_any_more(loaded, forwards):
    model = loaded["source"].model
    seen = forwards(model)
    forest = TreeDecoder({"one": model}, 4)
    forest.read([[tree.add([5, 6, 7])] for tree in forest.trees])
    forest.reorder(torch.tensor([3, 1]))
    wanted = [[tree.add([8 + row], len(tree.tokens) - 1)] for row, tree in enumerate(forest.trees)]
    forest.read(wanted)
    assert seen == [(4, 3), (2, 1)]
    compare(forest, wanted)


def test_nothing_new_is_no_forward(loaded, forwards):
    model = loaded["source"].model
    seen = forwards(model)
    forest = TreeDecoder({"one": model}, 2)
    forest.read([[], []])
    assert not seen
    node = forest.trees[1].add([5])
    forest.read([[], [node]])
    forest.read([[], [node]])
    assert seen == [(2, 1)]


def test_slots_of_what_was_taken_back_are_given_back(loaded):
    """A text of 500 tokens, each with two others that were tried, takes little more than its own length."""
    forest, node, wanted = TreeDecoder({"one": loaded["source"].model}, 1), ROOT, []
    for step in range(500):
        tried = [forest.trees[0].add([5 + (7 * step + k) % 300], node) for k in range(3)]
        forest.read([tried])
        node, wanted = tried[0], [[tried[0]]]
        forest.commit_prefixes([node])
    assert forest._depths.shape[1] < 1.4 * 500
    compare(forest, wanted)
    forest.read([[forest.trees[0].ancestors(node)[250]]])
    compare(forest, [[forest.trees[0].ancestors(node)[250]]])
