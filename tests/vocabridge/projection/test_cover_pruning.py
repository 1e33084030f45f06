"""Covers that no model expects are dropped, as soon as that is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vocabridge.models.value_source import Scores
from vocabridge.projection.cover_pruning import prune_covers
from vocabridge.projection.positions import CoverNode, Position

SHARED, BEHIND = 0, 1
"""Nodes: the last one that all covers share, and one after it."""

AS_IS = CoverNode(5, b"", ((SHARED, 10),))
CUT = CoverNode(6, b"h", ((SHARED, 11),))
CUT_TWICE = CoverNode(7, b"h", ((SHARED, 11), (BEHIND, 12)))
TAKEN_BACK = CoverNode(SHARED, b"with", ())


class Source:
    """Passes on the logits of both models."""

    def scores(self, logits):
        return Scores(tuned=logits["tuned"], untuned=logits["untuned"])


class Decoder:
    """Knows the probabilities of tokens after nodes of row 3, by node and by model."""

    def __init__(self, p):
        self.p = p

    def has_logits(self, row, node):
        assert row == 3
        return node in self.p

    def logits(self, entries):
        return {
            name: torch.stack([torch.tensor(self.p[node][name]).log() + 7 for _, node in entries])
            for name in ("tuned", "untuned")
        }


def distribution(**p: float) -> list[float]:
    """Return a distribution over 16 tokens with some probabilities by number, and the rest on token 0."""
    values = [1e-30] * 16
    for name, share in p.items():
        values[int(name[1:])] = share
    values[0] = 1 - sum(p.values())
    return values


def both(**p: float) -> dict[str, list[float]]:
    return {"tuned": distribution(**p), "untuned": distribution(**p)}


def kept_covers(covers, p, text_end=b" with"):
    (position,) = prune_covers(Source(), Decoder(p), [Position(3, text_end, tuple(covers))], {}, 0.01)
    return position.covers


def test_a_cover_that_is_a_thousand_times_less_likely_is_dropped_and_another_one_gets_its_log_probability() -> None:
    p = {SHARED: both(_10=0.5, _11=0.0005)}
    (kept,) = kept_covers([AS_IS, CUT], p)
    assert kept == replace(AS_IS, log_p=kept.log_p)
    assert kept.log_p == pytest.approx({"tuned": math.log(0.5), "untuned": math.log(0.5)})
    _, cut = kept_covers([AS_IS, CUT], {SHARED: both(_10=0.5, _11=0.05)})
    assert cut.log_p["tuned"] == pytest.approx(math.log(0.05))


def test_a_cover_that_one_of_the_models_expects_is_kept() -> None:
    p = {SHARED: {"tuned": distribution(_10=0.5, _11=0.0005), "untuned": distribution(_10=0.5, _11=0.05)}}
    assert len(kept_covers([AS_IS, CUT], p)) == 2


def test_a_step_that_has_not_been_read_counts_as_certain() -> None:
    first = {SHARED: both(_10=0.5, _11=0.05)}
    assert len(kept_covers([AS_IS, CUT_TWICE], first)) == 2
    assert len(kept_covers([AS_IS, CUT_TWICE], first | {BEHIND: both(_12=0.05)})) == 1
    assert len(kept_covers([AS_IS, CUT_TWICE], {SHARED: both(_10=0.5, _11=0.0005)})) == 1  # whatever follows it
    assert len(kept_covers([AS_IS, CUT], {})) == 2


def test_no_cover_is_dropped_before_the_text_as_it_stands_has_been_read() -> None:
    longer = CoverNode(8, b"", ((SHARED, 10), (BEHIND, 12)))
    p = {SHARED: both(_10=0.5, _11=0.0005)}
    assert len(kept_covers([longer, CUT], p)) == 2
    assert len(kept_covers([longer, CUT], p | {BEHIND: both(_12=0.9)})) == 1
    assert len(kept_covers([longer, CUT], p | {BEHIND: both(_12=0.01)})) == 2


def test_the_text_as_it_stands_is_kept_however_unlikely_because_only_after_it_may_the_text_end() -> None:
    p = {SHARED: both(_10=0.5, _11=0.0005)}
    covers = [replace(CUT, pending=b"", can_end=True), AS_IS]
    assert [cover.node for cover in kept_covers(covers, p)] == [CUT.node, AS_IS.node]
    assert len(kept_covers([replace(CUT, pending=b""), AS_IS], p)) == 1


@pytest.mark.parametrize("text_end", [b" with ", b"\n"])
def test_after_white_space_all_covers_are_kept(text_end) -> None:
    assert len(kept_covers([AS_IS, CUT], {SHARED: both(_10=0.5, _11=0.0005)}, text_end)) == 2


def test_where_the_text_ends_inside_a_character_all_covers_are_kept() -> None:
    half = replace(AS_IS, pending=b"\xc3")
    assert len(kept_covers([half, CUT], {SHARED: both(_10=0.5, _11=0.0005)})) == 2


def test_a_cover_without_steps_is_kept() -> None:
    kept = kept_covers([AS_IS, TAKEN_BACK], {SHARED: both(_10=0.5)})
    assert [cover.pending for cover in kept] == [b"", b"with"]
    assert kept[1].log_p == {}


def test_a_position_with_one_cover_is_unchanged() -> None:
    assert kept_covers([CUT], {}) == (CUT,)
