"""A steering: the pieces that the source reads of the base's tokens, the models that run, and the errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vocabridge.alignment import VocabridgeError, align
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.steering import Steering, steer
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.methods import METHODS
from vocabridge.projection.projection import Projection
from vocabridge.projection.source_predictions import SourcePredictor
from vocabridge.projection.strength import Schedule


def steering(parts, combination=None, source=None, **arguments) -> Steering:
    return Steering.over(parts.base.vocabulary, source or parts.pair, parts.alignment, combination, **arguments)


def test_every_token_of_the_bases_is_read_as_its_bytes(parts):
    """Tokens without bytes are no text, nor are padding and the base's bos token."""
    stream, vocabulary = steering(parts).open_stream(1), parts.base.vocabulary
    for i, data in enumerate(vocabulary.token_bytes):
        if i != vocabulary.roles["eos"]:
            assert stream.pieces([i]) == [(data or b"")]
    assert stream.pieces([-1]) == [b""]
    assert stream.pieces([vocabulary.roles["bos"]]) == [b""]
    assert stream.pieces([5, -1, 300]) == [vocabulary.token_bytes[5], b"", vocabulary.token_bytes[300]]


def test_control_tokens_are_read_as_the_sources_own_of_the_same_role(chatty):
    stream, source, target = (
        steering(chatty).open_stream(1),
        chatty.small.vocabulary.roles,
        chatty.base.vocabulary.roles,
    )
    assert target["turn end"] != source["turn end"]
    for role in ("eos", "turn begin", "turn end"):
        assert stream.pieces([target[role]]) == [source[role]]
    assert stream.pieces([target["bos"]]) == [b""]
    assert stream.pieces([target["unk"]]) == [b""]


def test_a_role_that_the_source_does_not_have_is_no_text(chatty, parts):
    alignment = align(parts.small.vocabulary, chatty.base.vocabulary, method="retokenize", cache=False)
    stream = Steering.over(chatty.base.vocabulary, parts.pair, alignment).open_stream(1)
    assert stream.pieces([chatty.base.vocabulary.roles["turn end"]]) == [b""]


@pytest.mark.parametrize(
    ("combination", "policy", "run"),
    [
        (Combination(ProjectionMethod.INFORMED), BoundaryPolicy.LOOKAHEAD, {"untuned", "value"}),
        (Combination(ProjectionMethod.INFORMED, 1, 0, 1), BoundaryPolicy.HEAL, {"untuned"}),
        (Combination(ProjectionMethod.LINEAR), BoundaryPolicy.AS_IS, {"value"}),
        (
            Combination(ProjectionMethod.LINEAR),
            BoundaryPolicy.HEAL,
            {"untuned", "value"},
        ),  # because covers are weighted by probabilities
        (Combination(ProjectionMethod.LINEAR), BoundaryPolicy.SKIP, {"untuned", "value"}),
        (Combination(ProjectionMethod.EXPONENTIAL, 1, 0, 0), BoundaryPolicy.HEAL, set()),
    ],
)
def test_which_models_have_to_run(parts, combination, policy, run):
    a_steering = steering(parts, combination, parts.residual(0.1), policy=policy)
    assert a_steering.required_models() == run
    assert a_steering.is_active == bool(run)


def test_a_steering_is_inactive_at_strength_0(parts):
    assert not steering(parts, strength=0.0).is_active
    assert not steering(parts, strength=Schedule(0.0, 0.0, 3)).is_active
    assert steering(parts, strength=Schedule(0.0, 0.1, 3)).is_active
    assert steering(parts, strength=-1.0).is_active


def test_a_steering_without_alignment_has_no_lookahead_and_is_healed(parts):
    small = parts.small
    ids = [*small.vocabulary.bos_ids, *small.vocabulary.encode("The 12  foxes é").ids.tolist()]
    found = []
    for policy in (BoundaryPolicy.LOOKAHEAD, BoundaryPolicy.HEAL):
        a_steering = Steering(parts.pair, small.vocabulary, Projection.identity(small.vocabulary.size), policy=policy)
        assert a_steering.lookahead is None
        stream = a_steering.open_stream(1)
        positions = stream.advance([stream.pieces(ids)], len(ids))
        with torch.no_grad():
            logits = small.model(torch.tensor([ids])).logits[0].float()
            found.append(steer(logits, [(a_steering, stream, positions)], torch.arange(len(ids)), SteeringLimits()))
    assert torch.equal(*found)


def test_many_positions_are_steered_as_each_alone(parts):
    """They are processed a few at a time, and lookahead of one position does not affect another."""
    a_steering, vocabulary = steering(parts), parts.base.vocabulary
    ids = [0, *vocabulary.encode("Zwölf Boxer jagen Viktor.  12 🙂\n\tcafé 東").ids.tolist()]
    with torch.no_grad():
        logits = parts.base.model(torch.tensor([ids])).logits[0].float()
        stream = a_steering.open_stream(1)
        together = stream.advance([stream.pieces(ids)], len(ids))
        found = steer(logits, [(a_steering, stream, together)], torch.zeros(len(ids)).long(), SteeringLimits())
        stream = a_steering.open_stream(1)
        for n, i in enumerate(ids):
            positions = stream.advance([stream.pieces([i])], 1)
            alone = steer(logits[n : n + 1], [(a_steering, stream, positions)], torch.zeros(1).long(), SteeringLimits())
            torch.testing.assert_close(alone[0].softmax(-1), found[n].softmax(-1), atol=1e-3, rtol=1e-3)
    assert len(ids) > 20


@pytest.mark.parametrize(
    "limits",
    [
        SteeringLimits(),
        SteeringLimits(plausibility_threshold=0.01),
    ],
)
def test_a_strength_by_schedule_is_that_of_each_position(parts, limits):
    schedule, ids = Schedule(1.5, -0.5, 5), [0, *parts.base.vocabulary.encode("The quick brown fox").ids.tolist()]
    n = torch.arange(-3, len(ids) - 3)

    def logits(strength):
        a_steering = steering(parts, strength=strength)
        with torch.no_grad():
            base = parts.base.model(torch.tensor([ids])).logits[0].float()
            stream = a_steering.open_stream(1)
            positions = stream.advance([stream.pieces(ids)], len(ids))
            return steer(base, [(a_steering, stream, positions)], n, limits)

    found = logits(schedule)
    for position, at in enumerate(n.tolist()):
        constant = logits(1.5 - 2.0 * min(max(at, 0) / 5, 1))
        torch.testing.assert_close(found[position], constant[position], atol=2e-3, rtol=1e-3)


def test_a_steering_for_another_vocabulary_is_refused(parts):
    a_steering = steering(parts)
    with pytest.raises(VocabridgeError, match="align the source with that one"):
        a_steering.check(parts.small.vocabulary)
    a_steering.check(parts.base.vocabulary)


def test_lookahead_reads_the_uncertain_tokens_and_then_those_that_are_worth_it_each_once(parts, monkeypatch):
    """Under its own policy, and for methods of distributions."""
    selected, size = [], parts.base.vocabulary.size
    predict, extend = SourcePredictor.predict, SourcePredictor.extend

    def with_uncertain_tokens(*arguments):
        return replace(predict(*arguments), uncertain_tokens={0: [7, 9]})

    def noted(predictor, positions, tokens):
        selected.append(tokens)
        return extend(predictor, positions, tokens)

    monkeypatch.setattr(SourcePredictor, "predict", with_uncertain_tokens)
    monkeypatch.setattr(SourcePredictor, "extend", noted)
    monkeypatch.setattr(Lookahead, "select", lambda *_: [[5, 9, 7, 6], [8]])
    for policy in (BoundaryPolicy.HEAL, BoundaryPolicy.LOOKAHEAD):
        for method in ProjectionMethod:
            a_steering = steering(parts, Combination(method), policy=policy)
            stream = a_steering.open_stream(1)
            with torch.no_grad():
                positions = stream.advance([stream.pieces(parts.base.vocabulary.encode("The fox").ids.tolist())], 2)
                list(a_steering.predictions(stream, positions, lambda part, _: torch.full((2, size), 1 / size)))
    of_distributions = [method for method in ProjectionMethod if not METHODS[method].of_logit_delta]
    assert selected == [[[7, 9, 5, 6], [8]]] * len(of_distributions)


def test_a_policy_is_set_by_its_name_and_a_wrong_policy_or_strength_is_refused_when_it_is_set(parts):
    one = steering(parts)
    one.policy = "skip"
    assert one.policy is BoundaryPolicy.SKIP
    for name, value in (("policy", "heall"), ("strength", float("nan")), ("strength", "much"), ("strength", 1e9)):
        with pytest.raises(VocabridgeError, match=str(value)[:3]):
            setattr(one, name, value)
        with pytest.raises(VocabridgeError):
            steering(parts, **{name: value})
    assert (one.policy, one.strength) == (BoundaryPolicy.SKIP, 1.0)
