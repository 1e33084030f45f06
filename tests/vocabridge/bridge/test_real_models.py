"""The two packaged models, SmolLM2-135M-Instruct and Gemma-3-270M: what must hold on real weights."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from vocabridge.alignment import Vocabulary, align
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.source_streams import SourceStreams
from vocabridge.bridge.steering import Steering
from vocabridge.evaluation.scoring import donor
from vocabridge.models.delta_model import DeltaModel
from vocabridge.models.joint_forward import run
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.models.value_network import ValueNetwork, load_value_source, new_value_network
from vocabridge.models.value_network_files import ValueNetworkConfig
from vocabridge.options import BoundaryPolicy, ProjectionMethod, Scheme
from vocabridge.projection.combination import Combination

pytestmark = pytest.mark.real

PROMPTS = ["Question: A baker sells 24 loaves a day. How many in 7 days?\nAnswer:", "The capital of 日本 🙂 is"]
GREEDY = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0)


@pytest.fixture(scope="module")
def gemma() -> LoadedModel:
    return load_model("gemma-3-270m")


@pytest.fixture(scope="module")
def network() -> ValueNetwork:
    """Make a fresh value network on SmolLM2, whose trunk is the source model itself."""
    small = load_model("smollm2-135m-instruct")
    config = ValueNetworkConfig(small.name, small.vocabulary.fingerprint, "full")
    return ValueNetwork(small, DeltaModel(small.model), config, "fresh")


@pytest.fixture(scope="module")
def bridge(gemma, network) -> Bridge:
    alignment = align(network.vocabulary, gemma.vocabulary, method="identical-bytes", cache=False)
    return Bridge.over(gemma, network, alignment, Combination(ProjectionMethod.LINEAR))


def inputs(vocabulary: Vocabulary, prompts: list[str]) -> dict[str, torch.Tensor]:
    rows = [[vocabulary.roles["bos"], *vocabulary.encode(prompt).ids.tolist()] for prompt in prompts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


def test_the_widths_are_those_of_the_logits(gemma, network):
    assert (gemma.vocabulary.size, network.vocabulary.size) == (262_144, 49_152)
    assert gemma.vocabulary.add_bos_token
    assert not network.vocabulary.add_bos_token


def test_smollm_reads_digits_one_by_one(network):
    vocabulary = network.vocabulary
    data = [vocabulary.token_bytes[i] for i in vocabulary.encode("In 1945, 12345").ids]
    assert data == [b"In", b" ", *(b"%d" % n for n in (1, 9, 4, 5)), b",", b" ", *(b"%d" % n for n in (1, 2, 3, 4, 5))]


def test_strength_0_is_the_base_bit_for_bit(gemma, bridge):
    batch = inputs(gemma.vocabulary, PROMPTS)
    bridge.steering.strength = 0.0
    try:
        with torch.no_grad():
            assert torch.equal(bridge(**batch).logits, gemma.model(**batch).logits)
        ours = bridge.generate(**batch, generation_config=GREEDY)
        assert torch.equal(ours, gemma.model.generate(**batch, generation_config=GREEDY))
    finally:
        bridge.steering.strength = 1.0


def test_a_fresh_value_network_leaves_the_base_as_it_is(gemma, bridge):
    batch = inputs(gemma.vocabulary, PROMPTS)
    with torch.no_grad():
        assert torch.equal(bridge(**batch).logits, gemma.model(**batch).logits.float())
    ours = bridge.generate(**batch, generation_config=GREEDY)
    assert torch.equal(ours, gemma.model.generate(**batch, generation_config=GREEDY))


def test_the_stream_predicts_what_one_forward_of_the_source_predicts(gemma, network):
    """bf16 rounds otherwise with and without a cache; the most likely tokens are the same."""
    ids = inputs(gemma.vocabulary, [PROMPTS[0] + " 24*7 = 168 loaves."])["input_ids"]
    steering = Steering.over(
        gemma.vocabulary,
        network,
        align(network.vocabulary, gemma.vocabulary, method="identical-bytes", cache=False),
        Combination(ProjectionMethod.STATIC),
        policy=BoundaryPolicy.AS_IS,
    )
    with torch.no_grad():
        ((_, stream, positions),) = SourceStreams().advance([steering], ids.tolist(), 0, 8)
        first = stream.predictor.predict(positions, steering.combination.required_scores, ids.device)
        full, active = first.scores, first.active
        text = gemma.vocabulary.tokenizer.decode(ids[0].tolist())
        source = torch.tensor([network.vocabulary.encode(text).ids.tolist()])
        plain = network.models["untuned"](source).logits[0, -1].float()
    assert active.all()
    assert full.untuned[-1].topk(3).indices.tolist() == plain.topk(3).indices.tolist()
    torch.testing.assert_close(full.untuned[-1].log_softmax(-1), plain.log_softmax(-1), atol=0.3, rtol=0.05)


def test_a_batch_begins_as_its_rows_do(gemma, network):
    """Looking ahead; bf16 rounds otherwise in batches, so only the first tokens are sure to agree."""
    alignment = align(network.vocabulary, gemma.vocabulary, method="retokenize", cache=False)
    weights = Combination(ProjectionMethod.INFORMED, 0.5, 1.0, 0.0)
    bridge, first = Bridge.over(gemma, network, alignment, weights), GenerationConfig(max_new_tokens=2, pad_token_id=0)
    together = bridge.generate(**inputs(gemma.vocabulary, PROMPTS), generation_config=first)
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = bridge.generate(**inputs(gemma.vocabulary, [prompt]), generation_config=first)[0]
        assert row[-2:].tolist() == alone[-2:].tolist()


def test_an_expert_pair_of_a_model_with_itself_changes_nothing(network):
    pair = load_value_source("smollm2-135m-instruct", untuned="smollm2-135m-instruct")
    ids = torch.tensor([network.vocabulary.encode(PROMPTS[0]).ids.tolist()])
    with torch.no_grad():
        outputs = {name: model(ids).logits.float() for name, model in pair.models.items()}
    assert (pair.scores(outputs).delta == 0).all()


@pytest.mark.parametrize("scheme", Scheme)
def test_a_fresh_network_of_six_layers_gives_its_bases_logits_bit_for_bit(scheme):
    fresh = new_value_network("smollm2-135m-instruct", method="lora", rank=4, scheme=scheme, layers=6)
    ids = inputs(fresh.vocabulary, [PROMPTS[0]])["input_ids"]
    with torch.no_grad():
        logits = run(fresh.models, lambda _name: {"input_ids": ids}, 0)
        assert torch.equal(fresh.scores(logits).tuned, fresh.source_model(ids).logits)
        assert torch.equal(donor(fresh)(ids).logits, fresh.source_model(ids).logits.float())
    assert fresh.value.config.num_hidden_layers == 6
