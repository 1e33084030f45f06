"""A steering: what the source reads of the base's tokens, which of its models run, and what is refused."""

from __future__ import annotations

import pytest
import torch

from vocabridge.alignment import VocabridgeError, align
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.steering import Steering, steer
from vocabridge.decoding.incremental_tokenizer import begin_tokens
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.projection import Projection
from vocabridge.projection.source_predictions import Said
from vocabridge.projection.strength import Schedule


def steering(parts, combination=None, source=None, **arguments) -> Steering:
    return Steering.over(parts.base.vocabulary, source or parts.pair, parts.alignment, combination, **arguments)


def test_every_token_of_the_bases_is_read_as_its_bytes(parts):
    """Those that stand for none are no text, nor is padding, nor the base's begin token."""
    one, vocabulary = steering(parts), parts.base.vocabulary
    for i, data in enumerate(vocabulary.token_bytes):
        if i != vocabulary.roles["end"]:
            assert one.piece(i) == (data or b"")
    assert one.piece(-1) == b""
    assert one.piece(vocabulary.roles["begin"]) == b""
    assert one.pieces([5, -1, 300]) == [vocabulary.token_bytes[5], b"", vocabulary.token_bytes[300]]


def test_control_tokens_are_read_as_the_sources_own_of_the_same_role(chatty):
    one, source, target = steering(chatty), chatty.small.vocabulary.roles, chatty.base.vocabulary.roles
    assert target["turn end"] != source["turn end"]
    for role in ("end", "turn begin", "turn end"):
        assert one.piece(target[role]) == source[role]
    assert one.piece(target["begin"]) == b""
    assert one.piece(target["unknown"]) == b""


def test_a_role_that_the_source_does_not_have_is_no_text(chatty, parts):
    alignment = align(parts.small.vocabulary, chatty.base.vocabulary, method="retokenize", cache=False)
    one = Steering.over(chatty.base.vocabulary, parts.pair, alignment)
    assert one.piece(chatty.base.vocabulary.roles["turn end"]) == b""


@pytest.mark.parametrize(
    ("combination", "policy", "run"),
    [
        (Combination(ProjectionMethod.INFORMED), BoundaryPolicy.LOOKAHEAD, {"base", "value"}),
        (Combination(ProjectionMethod.INFORMED, 1, 0, 1), BoundaryPolicy.HEAL, {"base"}),
        (Combination(ProjectionMethod.LINEAR), BoundaryPolicy.AS_IS, {"value"}),
        (
            Combination(ProjectionMethod.LINEAR),
            BoundaryPolicy.HEAL,
            {"base", "value"},
        ),  # covers are weighed by probabilities
        (Combination(ProjectionMethod.LINEAR), BoundaryPolicy.SKIP, {"base", "value"}),
        (Combination(ProjectionMethod.EXPONENTIAL, 1, 0, 0), BoundaryPolicy.HEAL, set()),
    ],
)
def test_which_models_have_to_run(parts, combination, policy, run):
    one = steering(parts, combination, parts.residual(0.1), policy=policy)
    assert one.models(one.wanted) == run
    assert one.is_inactive == (not run)


def test_it_is_inactive_at_strength_0(parts):
    assert steering(parts, strength=0.0).is_inactive
    assert steering(parts, strength=Schedule(0.0, 0.0, 3)).is_inactive
    assert not steering(parts, strength=Schedule(0.0, 0.1, 3)).is_inactive
    assert not steering(parts, strength=-1.0).is_inactive


def test_a_projection_of_your_own_has_no_look_ahead_and_is_healed(parts):
    small = parts.small
    ids = [*begin_tokens(small.vocabulary), *small.vocabulary.encode("The 12  foxes é").ids.tolist()]
    found = []
    for policy in (BoundaryPolicy.LOOKAHEAD, BoundaryPolicy.HEAL):
        one = Steering(parts.pair, small.vocabulary, Projection.identity(small.vocabulary.size), policy=policy)
        assert one.lookahead is None
        said = one.reading(1, one.wanted).read([one.pieces(ids)], len(ids))
        with torch.no_grad():
            logits = small.model(torch.tensor([ids])).logits[0].float()
            found.append(steer(logits, [(one, said)], torch.arange(len(ids)), SteeringLimits()))
    assert torch.equal(*found)


def test_many_positions_are_steered_as_each_alone(parts):
    """They are worked on a few at a time, and what was looked behind belongs to its own."""
    one, vocabulary = steering(parts), parts.base.vocabulary
    ids = [0, *vocabulary.encode("Zwölf Boxer jagen Viktor.  12 🙂\n\tcafé 東").ids.tolist()]
    with torch.no_grad():
        logits = parts.base.model(torch.tensor([ids])).logits[0].float()
        together = one.reading(1, one.wanted).read([one.pieces(ids)], len(ids))
        found = steer(logits, [(one, together)], torch.zeros(len(ids)).long(), SteeringLimits())
        reading = one.reading(1, one.wanted)
        for n, i in enumerate(ids):
            said = reading.read([one.pieces([i])], 1)
            alone = steer(logits[n : n + 1], [(one, said)], torch.zeros(1).long(), SteeringLimits())
            torch.testing.assert_close(alone[0].softmax(-1), found[n].softmax(-1), atol=1e-3, rtol=1e-3)
    assert len(ids) > 20


@pytest.mark.parametrize(
    "limits", [SteeringLimits(), SteeringLimits(max_norm=1.0), SteeringLimits(plausible=0.01, min_entropy=2.0)]
)
def test_a_strength_by_schedule_is_that_of_each_position(parts, limits):
    schedule, ids = Schedule(1.5, -0.5, 5), [0, *parts.base.vocabulary.encode("The quick brown fox").ids.tolist()]
    n = torch.arange(-3, len(ids) - 3)

    def logits(strength):
        one = steering(parts, strength=strength)
        with torch.no_grad():
            base = parts.base.model(torch.tensor([ids])).logits[0].float()
            said = one.reading(1, one.wanted).read([one.pieces(ids)], len(ids))
            return steer(base, [(one, said)], n, limits)

    found = logits(schedule)
    for position, at in enumerate(n.tolist()):
        constant = logits(1.5 - 2.0 * min(max(at, 0) / 5, 1))
        torch.testing.assert_close(found[position], constant[position], atol=2e-3, rtol=1e-3)


def test_what_is_refused(parts):
    one = steering(parts)
    with pytest.raises(VocabridgeError, match="align it with this one"):
        one.check(parts.small.vocabulary, SteeringLimits())
    with pytest.raises(VocabridgeError, match="confidence"):
        steering(parts, Combination(ProjectionMethod.LINEAR)).check(
            parts.base.vocabulary, SteeringLimits(confidence=0.5)
        )
    one.check(parts.base.vocabulary, SteeringLimits(confidence=0.5))


def test_looked_behind_are_the_unsure_tokens_and_then_those_worth_it_each_once(parts, monkeypatch):
    """By look-ahead, and where there is a mass that could be split."""
    looked, p_base = [], torch.full((2, parts.base.vocabulary.size), 1 / parts.base.vocabulary.size)
    monkeypatch.setattr(Said, "look_behind", lambda said, chosen: looked.append(chosen))
    monkeypatch.setattr(Said, "unsure", lambda said, part: [[7, 9], []])
    monkeypatch.setattr(Lookahead, "choose", lambda *_: [[5, 9, 7, 6], [8]])
    for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD):
        one = steering(parts, policy=policy)
        reading = one.reading(1, one.wanted)
        with torch.no_grad():
            said = reading.read([one.pieces(parts.base.vocabulary.encode("The fox").ids.tolist())], 2)
            for carry in ProjectionMethod:
                one.look(said, [p_base], carry)
    assert looked == [[[7, 9, 5, 6], [8]]] * sum(not carry.of_logit_delta for carry in ProjectionMethod)
