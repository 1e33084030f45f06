"""Models with different tokenizers are combined over bytes, and generate text."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.bridge.steering import Steering
from vocabridge.bridge.streaming import stream
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering, ByteLevelText
from vocabridge.byte_level.token_search import most_likely_token
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection

TEXT = "the a\nb"


@pytest.fixture
def build(worlds):
    def make(combination: Combination, strength: float = 1.0) -> ByteLevelBridge:
        source = ExpertPair(worlds["byte-level"].loaded, worlds["byte-level"].loaded)
        steering = ByteLevelSteering(source, combination, strength)
        return ByteLevelBridge(worlds["byte fallback"].loaded, [steering], tolerance=0)

    return make


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        (Combination(ProjectionMethod.INFORMED, 1.0, 0.6, 0.0), lambda p, q: p * q**0.6),
        (Combination(ProjectionMethod.INFORMED, 0.0, 1.0, 0.0), lambda p, q: q),
        (Combination(ProjectionMethod.INFORMED, 1.0, 1.0, 1.0), lambda p, q: p),
        (Combination(ProjectionMethod.INFORMED, 0.3, 0.7, 0.0, Form.MIXTURE), lambda p, q: 0.3 * p + 0.7 * q),
    ],
)
def test_bytes_and_control_tokens_are_combined_by_the_equations(worlds, build, combination, expected):
    base, tuned = worlds["byte fallback"], worlds["byte-level"]
    text = build(combination).text()
    for size in range(len(TEXT) + 1):
        p, q = base.next_byte(TEXT[:size].encode()), tuned.next_byte(TEXT[:size].encode())
        # Of the control tokens (bos, eos and unk of the base, bos and eos of the source) both share eos only.
        shared = np.append(q[:256], q[257])
        columns = [*range(256), 257]
        q_on_base = p.copy()
        q_on_base[columns] = shared / shared.sum() * p[columns].sum()
        unscaled = expected(p, q_on_base)
        distribution = text.next()
        np.testing.assert_allclose(distribution.p, unscaled / unscaled.sum(), atol=1e-5)
        np.testing.assert_allclose(distribution.p_base, p, atol=1e-5)
        text = text.after(TEXT[size : size + 1].encode())


def test_at_strength_0_the_source_is_not_run_and_the_base_is_unchanged(build):
    bridge = build(Combination(), strength=0.0)
    distribution = bridge.text([b"the"]).next()
    np.testing.assert_array_equal(distribution.p, distribution.p_base)
    assert bridge.forwards == bridge.base.forwards


def every_token(text: ByteLevelText, vocabulary: Vocabulary) -> dict[bytes | int, float]:
    """Return the probability of each token of the base that may come next, one by one, by the equation."""
    first = text.next()
    control_ids = text.bridge.base.control_ids.tolist()
    probabilities: dict[bytes | int, float] = dict(zip(control_ids, first.p[256:].tolist(), strict=True))
    known = {b"": (text, 1.0)}
    for data in sorted({piece for piece in vocabulary.token_bytes if piece}, key=len):
        for size in range(1, len(data) + 1):
            if data[:size] not in known:
                before, p = known[data[: size - 1]]
                p *= float(before.next().p[data[size - 1]]) if p > 0 else 0.0
                known[data[:size]] = (before.after(data[size - 1 : size]) if p > 0 else before, p)
        longer, p = known[data]
        if p > 0:
            probabilities[data] = p * float(longer.next().p @ longer.boundary_share(len(data)))
    return probabilities


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "combination", [Combination(ProjectionMethod.INFORMED, 0.5, 0.5, 0.0), Combination(ProjectionMethod.LINEAR)]
)
@pytest.mark.parametrize("prompt", ["the ", "the th"])
def test_the_search_returns_the_most_likely_of_all_tokens(build, combination, prompt):
    bridge = build(combination)
    text = bridge.text([prompt.encode()])
    for _ in range(2):
        best, all_tokens = most_likely_token(text), every_token(text, bridge.vocabulary)
        assert best.p == pytest.approx(max(all_tokens.values()))
        assert all_tokens[best.piece] == pytest.approx(best.p)
        text = best.text


def test_a_stop_string_ends_the_text(build):
    bridge = build(Combination(ProjectionMethod.INFORMED, 0.5, 0.5, 0.0))
    text = "".join(stream(bridge, "the ", max_new_tokens=8))
    assert len(text) > 2
    assert "".join(stream(bridge, "the ", max_new_tokens=8, stop=text[1:3])) == text[:1]
    with pytest.raises(VocabridgeError, match="beams"):
        stream(bridge, "the", max_new_tokens=3, beams=2)


def test_the_bits_of_a_response_are_the_sum_over_its_bytes(build):
    bridge = build(Combination(ProjectionMethod.INFORMED, 0.5, 0.5, 0.0))
    text, bits = bridge.text([b"the "]), 0.0
    for byte in b"then":
        bits -= np.log2(text.next().p[byte])
        text = text.after(bytes([byte]))
    assert bridge.bits("the ", "then") == pytest.approx(bits, rel=1e-5)


def test_a_text_that_the_base_cannot_spell_is_an_error(build):
    with pytest.raises(VocabridgeError, match="no tokens for this text"):
        build(Combination()).text([b"a\xff"]).next()


def test_one_argument_makes_any_bridge_a_byte_level_bridge(parts, tmp_path):
    save_bridge(Bridge.over(parts.base, parts.pair, parts.alignment), tmp_path / "bridge")
    bridge = load(tmp_path / "bridge", byte_level=True, dtype=torch.float32)
    built = build_bridge(
        parts.base.folder, parts.tuned.folder, untuned=parts.small.folder, byte_level=True, dtype=torch.float32
    )
    np.testing.assert_array_equal(built.text([b"The qui"]).next().p, bridge.text([b"The qui"]).next().p)
    assert isinstance(bridge, ByteLevelBridge)
    assert bridge.steering.combination == load(tmp_path / "bridge").steering.combination
    assert isinstance("".join(stream(bridge, "The qui", max_new_tokens=1)), str)
    save_bridge(parts.bridge(limits=SteeringLimits(plausibility_threshold=0.1)), tmp_path / "limited")
    with pytest.raises(VocabridgeError, match="limits"):
        load(tmp_path / "limited", byte_level=True)


def test_with_one_tokenizer_the_greedy_text_is_that_of_adding_logits_token_by_token(worlds):
    """The models have memorized a text each, so the tuned model turns the base's text into another."""
    world = worlds["byte-level"]
    texts = {"base": "it's the then a b", "tuned": "it's all'll 12 b ba", "untuned": "it's the then a b"}
    models = {name: _trained(world, text, seed) for seed, (name, text) in enumerate(texts.items())}
    source = ExpertPair(models["tuned"], models["untuned"])
    identity = Projection.identity(world.vocabulary.size)
    steering = Steering(
        source, world.vocabulary, identity, Combination(ProjectionMethod.LINEAR), policy=BoundaryPolicy.AS_IS
    )
    by_token = Bridge(models["base"], [steering])
    by_byte = ByteLevelBridge(
        models["base"], [ByteLevelSteering(source, Combination(ProjectionMethod.LINEAR))], tolerance=0
    )
    text = "".join(stream(by_byte, "it's", max_new_tokens=5))
    assert text == "".join(stream(by_token, "it's", max_new_tokens=5))
    assert text.startswith(" all'll 12")


def _trained(world, text: str, seed: int) -> LoadedModel:
    """Return a copy of the world's model that has memorized one text."""
    model = copy.deepcopy(world.loaded.model).train()
    torch.manual_seed(seed)
    ids = torch.tensor([world.vocabulary.encode(text).ids.tolist()])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return LoadedModel(text, "", model.eval(), world.vocabulary)
