"""Models of different tokenizers are combined over bytes, and write text."""

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
from vocabridge.byte_level.token_search import likeliest_token
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
def test_bytes_and_symbols_are_combined_as_the_equations_say(worlds, build, combination, expected):
    base, donor = worlds["byte fallback"], worlds["byte-level"]
    text = build(combination).text()
    for at in range(len(TEXT) + 1):
        p, q = base.next_byte(TEXT[:at].encode()), donor.next_byte(TEXT[:at].encode())
        # Only the end means the same to both: symbols are begin, end and unknown, and begin and end.
        shared = np.append(q[:256], q[257])
        speaking = [*range(256), 257]
        projected = p.copy()
        projected[speaking] = shared / shared.sum() * p[speaking].sum()
        wanted = expected(p, projected)
        found = text.next()
        np.testing.assert_allclose(found.p, wanted / wanted.sum(), atol=1e-5)
        np.testing.assert_allclose(found.p_base, p, atol=1e-5)
        text = text.after(TEXT[at : at + 1].encode())


def test_at_strength_0_the_source_is_not_run_and_the_base_speaks(worlds, build):
    bridge = build(Combination(), strength=0.0)
    found = bridge.text([b"the"]).next()
    np.testing.assert_array_equal(found.p, found.p_base)
    assert bridge.forwards == bridge.base.forwards


def every_token(text: ByteLevelText, vocabulary: Vocabulary) -> dict[bytes | int, float]:
    """The probability of each token of the base's that may come next, one by one, by the equation."""
    first = text.next()
    symbols = text.bridge.base.symbols.tolist()
    found: dict[bytes | int, float] = dict(zip(symbols, first.p[256:].tolist(), strict=True))
    known = {b"": (text, 1.0)}
    for data in sorted({piece for piece in vocabulary.token_bytes if piece}, key=len):
        for size in range(1, len(data) + 1):
            if data[:size] not in known:
                before, p = known[data[: size - 1]]
                p *= float(before.next().p[data[size - 1]]) if p > 0 else 0.0
                known[data[:size]] = (before.after(data[size - 1 : size]) if p > 0 else before, p)
        behind, p = known[data]
        if p > 0:
            found[data] = p * float(behind.next().p @ behind.cuts(len(data)))
    return found


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "combination", [Combination(ProjectionMethod.INFORMED, 0.5, 0.5, 0.0), Combination(ProjectionMethod.LINEAR)]
)
@pytest.mark.parametrize("begun", ["the ", "the th"])
def test_the_token_that_is_found_is_the_likeliest_of_all(build, combination, begun):
    bridge = build(combination)
    text = bridge.text([begun.encode()])
    for _ in range(2):
        found, all_tokens = likeliest_token(text), every_token(text, bridge.vocabulary)
        assert found.p == pytest.approx(max(all_tokens.values()))
        assert all_tokens[found.piece] == pytest.approx(found.p)
        text = found.text


def test_a_stop_string_ends_what_is_written(build):
    bridge = build(Combination(ProjectionMethod.INFORMED, 0.5, 0.5, 0.0))
    written = "".join(stream(bridge, "the ", max_new_tokens=8))
    assert len(written) > 2
    assert "".join(stream(bridge, "the ", max_new_tokens=8, stop=written[1:3])) == written[:1]
    with pytest.raises(VocabridgeError, match="beams"):
        stream(bridge, "the", max_new_tokens=3, beams=2)


def test_the_bits_of_a_response_are_those_of_its_bytes(build):
    bridge = build(Combination(ProjectionMethod.INFORMED, 0.5, 0.5, 0.0))
    text, bits = bridge.text([b"the "]), 0.0
    for byte in b"then":
        bits -= np.log2(text.next().p[byte])
        text = text.after(bytes([byte]))
    assert bridge.bits("the ", "then") == pytest.approx(bits, rel=1e-5)


def test_a_text_that_the_base_cannot_spell_is_an_error(build):
    with pytest.raises(VocabridgeError, match="no tokens for this text"):
        build(Combination()).text([b"a\xff"]).next()


def test_a_bridge_differs_in_one_argument(parts, tmp_path):
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


def test_of_one_tokenizer_the_greedy_text_is_that_of_adding_logits_token_by_token(worlds):
    """A base and an expert pair that are sure of what they say: the tuned one turns the base's text into another."""
    world = worlds["byte-level"]
    told = {"base": "it's the then a b", "tuned": "it's all'll 12 b ba", "untuned": "it's the then a b"}
    models = {name: _taught(world, text, seed) for seed, (name, text) in enumerate(told.items())}
    source = ExpertPair(models["tuned"], models["untuned"])
    identity = Projection.identity(world.vocabulary.size)
    added = Steering(
        source, world.vocabulary, identity, Combination(ProjectionMethod.LINEAR), policy=BoundaryPolicy.AS_IS
    )
    by_token = Bridge(models["base"], [added])
    by_byte = ByteLevelBridge(
        models["base"], [ByteLevelSteering(source, Combination(ProjectionMethod.LINEAR))], tolerance=0
    )
    written = "".join(stream(by_byte, "it's", max_new_tokens=5))
    whole = "".join(stream(by_token, "it's", max_new_tokens=5))
    assert written == whole
    assert written.startswith(" all'll 12")


def _taught(world, text: str, seed: int) -> LoadedModel:
    """A copy of the world's model that has learnt one text by heart."""
    model = copy.deepcopy(world.loaded.model).train()
    torch.manual_seed(seed)
    ids = torch.tensor([world.vocabulary.encode(text).ids.tolist()])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return LoadedModel(text, "", model.eval(), world.vocabulary)
