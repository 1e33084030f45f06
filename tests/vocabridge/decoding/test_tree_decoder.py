"""Tests of the tree decoder; the reference runs the model on the sequence of each node alone."""

from __future__ import annotations

import copy

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabridge.decoding.token_tree import ROOT, TokenTree
from vocabridge.decoding.tree_decoder import _KEPT_FORWARDS, TreeDecoder
from vocabridge.models.delta_model import DeltaModel
from vocabridge.options import Scheme

KINDS = {"full": "source", "hybrid": "target"}
"""Llama; Gemma-3 with a window of 8 in one of two layers. The kind "sliding" is Mistral with a window of 5."""


@pytest.fixture(params=["full", "sliding", "hybrid"])
def model(request, loaded, sliding):
    return sliding.model if request.param == "sliding" else loaded[KINDS[request.param]].model


@torch.no_grad()
def alone(models, name: str, tree: TokenTree, node: int) -> torch.Tensor:
    ids = torch.tensor([[tree.tokens[i] for i in tree.ancestors(node)]])
    other = getattr(models[name], "takes_logits_of", None)
    taken = {} if other is None else {"taken_logits": models[other](input_ids=ids, use_cache=False).logits}
    return models[name](input_ids=ids, use_cache=False, **taken).logits[0, -1].float()


def compare(decoder: TreeDecoder, wanted: list[list[int]]) -> None:
    entries = [(row, node) for row, nodes in enumerate(wanted) for node in nodes]
    for name in decoder.models if entries else ():
        all_logits = decoder.logits(entries)[name]
        assert all_logits.shape[0] == len(entries)
        for logits, (row, node) in zip(all_logits, entries, strict=True):
            expected = alone(decoder.models, name, decoder.trees[row], node)
            torch.testing.assert_close(logits, expected, atol=5e-4, rtol=1e-3)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    """Draw steps of a decoder, most of which grow its trees; the seeds decide where and how much."""
    kinds = st.sampled_from(["grow", "grow", "grow", "again", "reorder"])
    return [
        (kind, draw(st.lists(st.integers(0, 999), min_size=6, max_size=6)))
        for kind in draw(st.lists(kinds, max_size=9))
    ]


def grow(tree: TokenTree, seed: int) -> int:
    """Add some tokens after some node, and return the last node."""
    generator = torch.Generator().manual_seed(seed)
    node = int(torch.randint(-1, len(tree.tokens), (1,), generator=generator)) if seed % 3 and tree.tokens else ROOT
    if seed % 3 == 1:
        node = len(tree.tokens) - 1
    size = int(torch.randint(0, 7, (1,), generator=generator))
    return tree.add(torch.randint(2, 390, (size,), generator=generator).tolist(), node)


@given(steps=steps())
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_logits_after_a_node_equal_those_of_its_sequence_alone(model, steps):
    follow(TreeDecoder({"model": model}, 3), steps)


@pytest.mark.quick(2)
@pytest.mark.parametrize("scheme", [Scheme.CASCADE, Scheme.CASCADE_PLUS])
@given(steps=steps())
@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_logits_of_a_model_that_takes_anothers_logits_equal_those_of_the_sequence_alone(model, scheme, steps):
    value = DeltaModel(copy.deepcopy(model), scheme)
    torch.nn.init.normal_(value.projection.weight, std=0.3)
    follow(TreeDecoder({"value": value, "untuned": model}, 3), steps)


def follow(decoder: TreeDecoder, steps: list[tuple[str, list[int]]]) -> None:
    """Take the steps, and compare the logits after each."""
    for kind, seeds in steps:
        if kind == "reorder":
            decoder.reorder(torch.tensor([seed % len(decoder.trees) for seed in seeds[: 2 + seeds[5] % 3]]))
        wanted: list[list[int]] = []
        for tree, seed in zip(decoder.trees, seeds, strict=False):
            last = grow(tree, seed) if kind == "grow" else ROOT
            nodes = {seed % len(tree.tokens), last} if tree.tokens else {last}
            wanted.append(sorted(nodes - {ROOT}))
        decoder.read(wanted)
        compare(decoder, wanted)
        decoder._compact_at = 0  # free all unused slots
        decoder.commit_prefixes([nodes[-1] if nodes else ROOT for nodes in wanted])
        compare(decoder, wanted)


def test_several_models_decode_the_same_trees(loaded):
    decoder = TreeDecoder({"first": loaded["source"].model, "second": loaded["tuned"].model}, 1)
    for tokens in ([5, 6, 7], [8]):
        node = decoder.trees[0].add(tokens, len(decoder.trees[0].tokens) - 1)
        decoder.read([[node]])
        compare(decoder, [[node]])


def test_a_node_is_read_once_while_its_logits_are_kept(loaded, forwards):
    model = loaded["source"].model
    calls = forwards(model)
    decoder = TreeDecoder({"model": model}, 1)
    trunk = decoder.trees[0].add([5, 6, 7, 8])
    decoder.read([[trunk]])
    for step in range(_KEPT_FORWARDS - 1):
        decoder.read([[trunk, decoder.trees[0].add([9 + step], trunk)]])
    decoder.read([[trunk]])
    assert calls == [(1, 4)] + [(1, 1)] * (_KEPT_FORWARDS - 1)
    for step in range(_KEPT_FORWARDS):
        decoder.read([[decoder.trees[0].add([50 + step], trunk)]])
    calls.clear()
    decoder.read([[trunk]])
    assert calls == [(1, 1)]
    compare(decoder, [[trunk]])


def test_only_the_logits_of_the_latest_forwards_are_kept(loaded):
    decoder = TreeDecoder({"model": loaded["source"].model}, 2)
    node = ROOT
    for step in range(30):
        for tree in decoder.trees:
            node = tree.add([5 + step], node if tree is decoder.trees[0] else len(tree.tokens) - 1)
        decoder.read([[len(tree.tokens) - 1] for tree in decoder.trees])
        assert len(decoder._chunks) <= _KEPT_FORWARDS
        assert sum(logits["model"].shape[1] for logits in decoder._chunks.values()) <= _KEPT_FORWARDS


def test_dropped_rows_are_not_run(loaded, forwards):
    model = loaded["source"].model
    calls = forwards(model)
    decoder = TreeDecoder({"model": model}, 4)
    decoder.read([[tree.add([5, 6, 7])] for tree in decoder.trees])
    decoder.reorder(torch.tensor([3, 1]))
    wanted = [[tree.add([8 + row], len(tree.tokens) - 1)] for row, tree in enumerate(decoder.trees)]
    decoder.read(wanted)
    assert calls == [(4, 3), (2, 1)]
    compare(decoder, wanted)


def test_there_is_no_forward_without_new_nodes(loaded, forwards):
    model = loaded["source"].model
    calls = forwards(model)
    decoder = TreeDecoder({"model": model}, 2)
    decoder.read([[], []])
    assert not calls
    node = decoder.trees[1].add([5])
    decoder.read([[], [node]])
    decoder.read([[], [node]])
    assert calls == [(2, 1)]


def test_the_slots_of_tokens_that_were_taken_back_are_freed(loaded):
    """A text of 500 tokens, with 2 rejected alternatives for each, takes few more slots than tokens."""
    decoder, node, wanted = TreeDecoder({"model": loaded["source"].model}, 1), ROOT, []
    for step in range(500):
        candidates = [decoder.trees[0].add([5 + (7 * step + k) % 300], node) for k in range(3)]
        decoder.read([candidates])
        node, wanted = candidates[0], [[candidates[0]]]
        decoder.commit_prefixes([node])
    assert decoder._depths.shape[1] < 1.4 * 500
    compare(decoder, wanted)
    decoder.read([[decoder.trees[0].ancestors(node)[250]]])
    compare(decoder, [[decoder.trees[0].ancestors(node)[250]]])
