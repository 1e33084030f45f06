"""Covers that a model does not expect are left out, as soon as that is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vocabridge.models.value_source import Scores
from vocabridge.projection.cover_pruning import prune_covers
from vocabridge.projection.positions import CoverNode, Position

SHARED, BEHIND = 0, 1
"""Nodes: the one that all covers share, and one behind it."""

WHOLE = CoverNode(5, b"", ((SHARED, 10),))
CUT = CoverNode(6, b"h", ((SHARED, 11),))
CUT_TWICE = CoverNode(7, b"h", ((SHARED, 11), (BEHIND, 12)))
TAKEN_BACK = CoverNode(SHARED, b"with", ())


class Source:
    """Says what the forest says, twice: as tuned and as untuned donor."""

    def scores(self, logits):
        return Scores(tuned=logits["tuned"], untuned=logits["untuned"])


class Forest:
    """Knows probabilities of tokens after nodes of row 3: by node, by donor."""

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
    """Over 16 tokens: what is given by number, the rest on token 0."""
    found = [1e-30] * 16
    for name, share in p.items():
        found[int(name[1:])] = share
    found[0] = 1 - sum(p.values())
    return found


def both(**p: float) -> dict[str, list[float]]:
    return {"tuned": distribution(**p), "untuned": distribution(**p)}


def heard(asked, p, written=b" with"):
    (position,) = prune_covers(Source(), Forest(p), [Position(3, written, tuple(asked))], {}, 0.01)
    return position.covers


def test_a_cover_that_is_a_thousand_times_less_likely_is_left_out_and_one_that_is_not_has_its_weight() -> None:
    p = {SHARED: both(_10=0.5, _11=0.0005)}
    (kept,) = heard([WHOLE, CUT], p)
    assert kept == replace(WHOLE, log_p=kept.log_p)
    assert kept.log_p == pytest.approx({"tuned": math.log(0.5), "untuned": math.log(0.5)})
    _, cut = heard([WHOLE, CUT], {SHARED: both(_10=0.5, _11=0.05)})
    assert cut.log_p["tuned"] == pytest.approx(math.log(0.05))


def test_one_donor_that_expects_a_cover_is_enough() -> None:
    p = {SHARED: {"tuned": distribution(_10=0.5, _11=0.0005), "untuned": distribution(_10=0.5, _11=0.05)}}
    assert len(heard([WHOLE, CUT], p)) == 2


def test_what_is_not_known_yet_may_be_likely() -> None:
    first = {SHARED: both(_10=0.5, _11=0.05)}
    assert len(heard([WHOLE, CUT_TWICE], first)) == 2
    assert len(heard([WHOLE, CUT_TWICE], first | {BEHIND: both(_12=0.05)})) == 1
    assert len(heard([WHOLE, CUT_TWICE], {SHARED: both(_10=0.5, _11=0.0005)})) == 1  # whatever comes behind it
    assert len(heard([WHOLE, CUT], {})) == 2


def test_what_a_cover_would_be_compared_with_has_to_be_known() -> None:
    longer = CoverNode(8, b"", ((SHARED, 10), (BEHIND, 12)))
    p = {SHARED: both(_10=0.5, _11=0.0005)}
    assert len(heard([longer, CUT], p)) == 2
    assert len(heard([longer, CUT], p | {BEHIND: both(_12=0.9)})) == 1
    assert len(heard([longer, CUT], p | {BEHIND: both(_12=0.01)})) == 2


def test_the_text_as_it_stands_is_heard_however_unlikely_since_only_behind_it_may_the_text_end() -> None:
    p = {SHARED: both(_10=0.5, _11=0.0005)}
    asked = [replace(CUT, pending=b"", can_end=True), WHOLE]
    assert [one.node for one in heard(asked, p)] == [CUT.node, WHOLE.node]
    assert len(heard([replace(CUT, pending=b""), WHOLE], p)) == 1


@pytest.mark.parametrize("written", [b" with ", b"\n"])
def test_behind_white_space_all_covers_are_heard(written) -> None:
    assert len(heard([WHOLE, CUT], {SHARED: both(_10=0.5, _11=0.0005)}, written)) == 2


def test_where_the_text_ends_within_a_character_all_covers_are_heard() -> None:
    half = replace(WHOLE, pending=b"\xc3")
    assert len(heard([half, CUT], {SHARED: both(_10=0.5, _11=0.0005)})) == 2


def test_a_cover_of_which_all_others_are_longer_is_heard() -> None:
    kept = heard([WHOLE, TAKEN_BACK], {SHARED: both(_10=0.5)})
    assert [one.pending for one in kept] == [b"", b"with"]
    assert kept[1].log_p == {}


def test_a_position_with_one_cover_is_as_it_was() -> None:
    assert heard([CUT], {}) == (CUT,)
