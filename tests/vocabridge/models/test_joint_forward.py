"""Value networks of every scheme compared with transformers and the equations: inputs, losses, gradients, bridges."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig

from vocabridge.bridge.model import Bridge
from vocabridge.bridge.source_streams import SourceStreams
from vocabridge.evaluation.scoring import donor, evaluated_donor
from vocabridge.models.delta_model import DeltaModel
from vocabridge.models.joint_forward import run
from vocabridge.models.prompts import left_padded, prompt_ids
from vocabridge.models.value_network import ValueNetwork, new_value_network
from vocabridge.models.value_network_files import ValueNetworkConfig
from vocabridge.options import BoundaryPolicy, ProjectionMethod, Scheme

CASCADES = [Scheme.CASCADE, Scheme.CASCADE_PLUS]
PROMPTS = ["The quick brown fox", "Question: 24 loaves 🙂\nAnswer: 24*7=", "cafés, naïve 東京"]
GREEDY = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=1)


def network_on(small, scheme) -> ValueNetwork:
    """Make a value network with random weights of its own, as after training."""
    generator = torch.Generator().manual_seed(5)
    value = DeltaModel(copy.deepcopy(small.model), scheme)
    for parameter in value.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    config = ValueNetworkConfig(small.folder, small.vocabulary.fingerprint, "full", scheme=scheme)
    return ValueNetwork(small, value.eval(), config, "value network")


@pytest.fixture(params=Scheme)
def scheme(request) -> Scheme:
    return request.param


@pytest.fixture(params=["source", "target"])
def network(request, loaded, scheme) -> ValueNetwork:
    """Return a value network on Llama, or on Gemma-3, which scales its embeddings and has a sliding window."""
    return network_on(loaded[request.param], scheme)


def plain(network, ids, mask=None):
    """Compute z_base and z_delta (batch, n, |S|) of full sequences with transformers and the equations."""
    base, value = network.source_model, network.value
    z_base = base(ids, attention_mask=mask).logits
    embed = value.model.get_input_embeddings()
    # Without the module, because its lookup gives the padding token's row no gradient.
    every_token = embed.weight * (value.config.hidden_size**0.5 if "gemma" in value.config.model_type else 1)
    p = z_base.detach().softmax(-1)
    read = {
        Scheme.RESIDUAL: embed(ids),
        Scheme.CASCADE: torch.einsum("bnw,wd->bnd", p, every_token),
        Scheme.CASCADE_PLUS: embed(ids) + torch.einsum("bnw,wd->bnd", p, every_token),
    }[network.config.scheme]
    hidden = value.model(inputs_embeds=read, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    head = value.model.get_output_embeddings().weight
    return z_base, torch.einsum("vd,de,bne->bnv", head, value.projection.weight, hidden)


def logits(network, ids):
    return run(network.models, lambda _name: {"input_ids": ids}, 0)


IDS = torch.arange(40).view(2, 20) * 37 % 397


@torch.no_grad()
def test_the_change_of_logits_is_that_of_the_equations(network):
    z_base, z_delta = plain(network, IDS)
    computed = logits(network, IDS)
    torch.testing.assert_close(computed["untuned"], z_base)
    torch.testing.assert_close(computed["value"], z_delta, atol=1e-3, rtol=1e-3)
    assert z_delta.abs().max() > 1


@torch.no_grad()
def test_the_number_of_positions_that_are_computed_at_once_changes_nothing(network, monkeypatch):
    expected = logits(network, IDS)["value"]
    monkeypatch.setattr("vocabridge.models.joint_forward._AT_ONCE", 7)
    torch.testing.assert_close(logits(network, IDS)["value"], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_only_the_logits_at_the_kept_positions_are_returned(network):
    at_all = logits(network, IDS)
    for keep, kept in ((3, slice(17, 20)), (torch.tensor([4, 9]), [4, 9])):
        at_kept = run(network.models, lambda _name: {"input_ids": IDS}, keep)
        for name in at_all:
            torch.testing.assert_close(at_kept[name], at_all[name][:, kept], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_cascade_depends_on_the_predictions_of_its_source_model_and_a_residual_network_does_not(network):
    before = logits(network, IDS)["value"]
    head = network.source_model.get_output_embeddings().weight
    head.data *= 0.5
    after = logits(network, IDS)["value"]
    head.data /= 0.5
    assert torch.equal(before, after) == (network.config.scheme is Scheme.RESIDUAL)


# --- training ----------------------------------------------------------------------------------------------------


def loss(z_base, z_delta, ids, mask):
    predicts = mask[:, 1:].bool()
    z = (z_base + z_delta)[:, :-1][predicts]
    norm = z_delta[:, :-1][predicts].abs().mean()
    return torch.nn.functional.cross_entropy(z, ids[:, 1:][predicts]) + 0.1 * norm


def compare_gradients(network) -> set[str]:
    """Compare with the equations on a right-padded batch, and return the names of parameters with a gradient."""
    mask = torch.ones_like(IDS)
    mask[1, 13:] = 0
    value = network.value
    expected = loss(*plain(network, IDS, mask), IDS, mask)
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in value.named_parameters() if parameter.grad is not None}
    network.zero_grad()

    with torch.no_grad():
        base_hidden = network.source_model.base_model(IDS, attention_mask=mask).last_hidden_state
        z_base = network.source_model.get_output_embeddings()(base_hidden)
    read = value.inputs(IDS, base_hidden, network.source_model.get_output_embeddings())
    computed = loss(z_base, value.unembed(value.hidden(**read, attention_mask=mask)), IDS, mask)
    computed.backward()
    torch.testing.assert_close(computed, expected)
    for name, parameter in value.named_parameters():
        if name not in gradients:
            assert parameter.grad is None
            continue
        scale = gradients[name].abs().max()
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, atol=1e-3, rtol=1e-3)
    assert all(parameter.grad is None for parameter in network.source_model.parameters())
    return set(gradients)


def test_loss_and_gradients_are_those_of_the_equations(network):
    learned = compare_gradients(network)
    assert learned == {name for name, _ in network.value.named_parameters()}


@pytest.mark.parametrize("family", ["source", "target"])
def test_loss_and_gradients_of_an_adapter_on_one_layer_are_those_of_the_equations(model_folders, family, scheme):
    base = str(getattr(model_folders, family))
    network = new_value_network(base, method="lora", rank=2, scheme=scheme, layers=1).float()
    for name, parameter in network.value.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("projection."))
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    assert compare_gradients(network) == {n for n, p in network.value.named_parameters() if p.requires_grad}


def test_no_gradient_reaches_the_source_model_even_if_its_hidden_states_require_one(network):
    base_hidden = network.source_model.base_model(IDS).last_hidden_state
    read = network.value.inputs(IDS, base_hidden, network.source_model.get_output_embeddings())
    network.value.unembed(network.value.hidden(**read)).sum().backward()
    assert all(parameter.grad is None for parameter in network.source_model.parameters())
    network.zero_grad()


@torch.no_grad()
def test_texts_that_are_packed_into_one_row_do_not_affect_each_other(network):
    """Pack texts as training does, with positions that begin again with each text."""
    packed, positions = IDS.view(1, 40), torch.arange(20).repeat(2)[None]
    base_hidden = network.source_model.base_model(packed, position_ids=positions, use_cache=False).last_hidden_state
    read = network.value.inputs(packed, base_hidden, network.source_model.get_output_embeddings())
    z_delta = network.value.unembed(network.value.hidden(**read, position_ids=positions, use_cache=False))
    torch.testing.assert_close(z_delta.view(2, 20, -1), plain(network, IDS)[1], atol=2e-3, rtol=1e-3)


# --- at inference ------------------------------------------------------------------------------------------------


def test_a_cascade_needs_its_source_model_even_for_the_change_alone(network):
    with_base = {"value"} if network.config.scheme is Scheme.RESIDUAL else {"value", "untuned"}
    assert network.required_models({"delta"}) == with_base
    assert network.required_models({"tuned"}) == {"value", "untuned"}
    assert network.required_models({"untuned"}) == {"untuned"}
    assert network.required_models(set()) == set()


@torch.no_grad()
def test_the_donor_alone_is_the_base_with_the_change_added(network):
    """Compare the donor as a causal language model, and as a contender that scores given ids."""
    ids = torch.tensor([prompt_ids(network.vocabulary, "The quick brown fox, 24 loaves, and cafés")])
    z_post = sum(plain(network, ids))
    torch.testing.assert_close(donor(network)(ids).logits[0, -1], z_post[0, -1], atol=2e-3, rtol=1e-3)
    scored = evaluated_donor("donor", network).logits(ids, 5)
    torch.testing.assert_close(scored, z_post[0, -5:], atol=1e-3, rtol=1e-3)


@pytest.fixture(
    params=[(BoundaryPolicy.AS_IS, ProjectionMethod.LINEAR), (BoundaryPolicy.LOOKAHEAD, ProjectionMethod.INFORMED)]
)
def bridge(request, parts, scheme) -> Bridge:
    policy, method = request.param
    return parts.bridge(network_on(parts.small, scheme), method=method, policy=policy, weights=(1.0, 0.8, 0.6))


def close(actual, expected):
    torch.testing.assert_close(actual.softmax(-1), expected.softmax(-1), atol=1e-3, rtol=1e-3)


def encode(bridge, text):
    return torch.tensor([prompt_ids(bridge.vocabulary, text)])


@torch.no_grad()
def test_the_predictions_of_a_value_network_in_a_bridge_are_those_that_it_has_alone(parts, scheme):
    """Compare them after a text that its own tokenizer cuts."""
    network, text = network_on(parts.small, scheme), "The quick brown fox"
    bridge = parts.bridge(network, method=ProjectionMethod.LINEAR, policy=BoundaryPolicy.AS_IS)
    _, z_delta = plain(network, torch.tensor([parts.small.vocabulary.encode(text).ids.tolist()]))
    ((_, stream, positions),) = SourceStreams().advance(bridge.steerings, encode(bridge, text).tolist(), 0, 1)
    first = stream.predictor.predict(positions, ("delta",), bridge.device)
    assert first.active.all()
    torch.testing.assert_close(first.scores.delta[0], z_delta[0, -1], atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_the_number_of_steps_in_which_a_text_is_read_changes_nothing(bridge):
    ids = encode(bridge, PROMPTS[1] + " loaves, cafés")
    in_one_step = bridge(ids).logits
    steps, cache = [], bridge(ids[:, :4], use_cache=True)
    steps.append(cache.logits)
    for part in (slice(4, 5), slice(5, 9), slice(9, ids.shape[1])):
        cache = bridge(ids[:, part], past_key_values=cache.past_key_values, use_cache=True)
        steps.append(cache.logits)
    close(torch.cat(steps, 1), in_one_step)


@pytest.mark.quick(2)
def test_the_same_text_is_generated_with_and_without_a_cache_in_a_batch_and_alone(bridge):
    rows = left_padded([prompt_ids(bridge.vocabulary, prompt) for prompt in PROMPTS], pad=1)
    together = bridge.generate(**rows, generation_config=GREEDY)
    assert torch.equal(bridge.generate(**rows, generation_config=GREEDY, use_cache=False), together)
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = bridge.generate(encode(bridge, prompt), generation_config=GREEDY)[0]
        assert alone[-20:].tolist() == row[-20:].tolist()


def test_beams_are_the_same_with_and_without_a_cache(bridge):
    beams = GenerationConfig(num_beams=3, max_new_tokens=8, do_sample=False, pad_token_id=1)
    ids = encode(bridge, PROMPTS[0])
    cached = bridge.generate(ids, generation_config=beams)
    assert torch.equal(cached, bridge.generate(ids, generation_config=beams, use_cache=False))


@pytest.mark.parametrize("method", [ProjectionMethod.LINEAR, ProjectionMethod.INFORMED])
@torch.no_grad()
def test_a_rollback_of_the_cache_leaves_no_trace(reverse, scheme, method):
    """Steer Llama, whose cache can be cropped, by a value network on Gemma-3, whose embeddings are scaled."""
    bridge = reverse.bridge(network_on(reverse.small, scheme), method=method, weights=(1.0, 0.8, 0.6))
    first, other = encode(bridge, "The quick brown fox jumps"), encode(bridge, "The quick brown 🙂 dog")
    shared = int((first[0, : other.shape[1]] == other[0, : first.shape[1]]).long().cumprod(0).sum())
    cache = bridge(first, use_cache=True).past_key_values
    cache.crop(shared - first.shape[1])
    close(bridge(other[:, shared:], past_key_values=cache).logits, bridge(other).logits[:, shared:])


def test_each_model_reads_each_token_once(parts, scheme, forwards):
    network = network_on(parts.small, scheme)
    bridge = parts.bridge(network, method=ProjectionMethod.LINEAR, policy=BoundaryPolicy.AS_IS)
    seen = {name: forwards(model) for name, model in network.models.items()}
    bridge.generate(encode(bridge, PROMPTS[0]), generation_config=GREEDY)
    assert seen["value"]
    assert seen["untuned"] == ([] if scheme is Scheme.RESIDUAL else seen["value"])
