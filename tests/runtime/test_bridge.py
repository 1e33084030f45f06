"""The bridge as one causal language model: what must hold bit for bit, and what caches and batches may not change."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from vocabridge.alignment import VocabridgeError, align
from vocabridge.bridge import Bridge, BridgeCache
from vocabridge.combination import Carry, Combination
from vocabridge.projection import Projection
from vocabridge.value_source import ContrastPair

PROMPTS = [
    "The quick brown fox",
    "Question: A baker sells 24 loaves a day. 🙂\nAnswer: 24*7=",
    "cafés, naïve 東京",
    "def f(x):\n    return",
]
GREEDY = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=1)


def encode(vocabulary, text):
    begin = [vocabulary.roles["begin"]] if vocabulary.adds_begin else []
    return torch.tensor([begin + vocabulary.encode(text).ids.tolist()])


def padded(vocabulary, texts):
    rows = [encode(vocabulary, text)[0].tolist() for text in texts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[1] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


@pytest.fixture(params=list(Carry), ids=lambda carry: carry.value)
def bridge(request, parts) -> Bridge:
    return parts.bridge(carry=request.param)


def test_strength_0_is_the_base_bit_for_bit(parts):
    bridge = parts.bridge(strength=0.0)
    inputs = padded(bridge.vocabulary, PROMPTS)
    with torch.no_grad():
        assert torch.equal(bridge(**inputs).logits, parts.base.model(**inputs).logits)
        ours, theirs = bridge(**inputs, use_cache=True), parts.base.model(**inputs, use_cache=True)
        assert torch.equal(ours.logits, theirs.logits)
        more = torch.full((4, 1), 7)
        mask = torch.cat([inputs["attention_mask"], torch.ones(4, 1, dtype=torch.long)], 1)
        positions = (mask.cumsum(-1) - 1)[:, -1:]
        on = [
            model(more, attention_mask=mask, position_ids=positions, past_key_values=past.past_key_values).logits
            for model, past in ((bridge, ours), (parts.base.model, theirs))
        ]
        assert torch.equal(*on)


def test_strength_0_generates_what_the_base_generates_with_the_same_scores(parts):
    bridge = parts.bridge(strength=0.0)
    inputs = padded(bridge.vocabulary, PROMPTS)
    arguments = {"generation_config": GREEDY, "output_scores": True, "return_dict_in_generate": True}
    ours, theirs = bridge.generate(**inputs, **arguments), parts.base.model.generate(**inputs, **arguments)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.scores, theirs.scores, strict=True))


def test_strength_0_runs_no_model_of_the_source(parts):
    bridge, calls = parts.bridge(strength=0.0), []
    handles = [model.register_forward_hook(lambda *_: calls.append(1)) for model in bridge.source.models.values()]
    try:
        bridge.generate(**padded(bridge.vocabulary, PROMPTS), generation_config=GREEDY)
    finally:
        for handle in handles:
            handle.remove()
    assert not calls


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_a_fresh_value_network_changes_no_bit_through_the_linear_carry(parts, strength):
    bridge = parts.bridge(parts.residual(), Carry.LINEAR, strength=strength)
    inputs = padded(bridge.vocabulary, PROMPTS)
    with torch.no_grad():
        assert torch.equal(bridge(**inputs).logits, parts.base.model(**inputs).logits.float())
    ours = bridge.generate(**inputs, generation_config=GREEDY)
    assert torch.equal(ours, parts.base.model.generate(**inputs, generation_config=GREEDY))


def same_vocabulary(parts, projection_of):
    small, tuned = parts.small, parts.tuned
    bridge = Bridge(small, ContrastPair(tuned, small), projection_of(small.vocabulary), Combination(Carry.LINEAR))
    ids = encode(small.vocabulary, PROMPTS[1])
    with torch.no_grad():
        base, delta = small.model(ids).logits, tuned.model(ids).logits - small.model(ids).logits
        return bridge, ids, bridge(ids).logits, base, delta


def test_the_identity_is_plain_addition_of_logits(parts):
    bridge, ids, found, base, delta = same_vocabulary(parts, lambda vocabulary: Projection.identity(vocabulary.size))
    with torch.no_grad():
        _, speaks = bridge.scores(ids, None, ids.shape[1], {"delta": True}, None)
    assert 0 < speaks.sum() < speaks.numel()  # not inside the emoji
    torch.testing.assert_close(found[speaks], (base + delta)[speaks], atol=2e-4, rtol=1e-4)
    assert torch.equal(found[~speaks], base[~speaks])


def test_the_exact_alignment_of_a_vocabulary_with_itself_is_the_identity(parts):
    vocabulary = parts.small.vocabulary
    alignment = align(vocabulary, vocabulary, method="exact", cache=False)
    bridge, ids, found, _, _ = same_vocabulary(parts, lambda _: Projection.of(alignment))
    identity, *_ = same_vocabulary(parts, lambda _: Projection.identity(vocabulary.size))
    emitted = sorted({*vocabulary.usable.tolist(), vocabulary.roles["begin"], vocabulary.roles["end"]})
    with torch.no_grad():
        assert torch.equal(found[..., emitted], identity(ids).logits[..., emitted])
    assert bridge.vocabulary.size > len(emitted)  # rows that pad the width stay the base's


def test_incremental_forwards_equal_one_forward(bridge):
    ids = encode(bridge.vocabulary, PROMPTS[1] + PROMPTS[2])
    with torch.no_grad():
        full = bridge(ids).logits
        cache, parts, start = None, [], 0
        for size in [5, 1, 1, 3, 1, 1, 1, 2, *[1] * ids.shape[1]]:
            if start < ids.shape[1]:
                output = bridge(ids[:, start : start + size], past_key_values=cache, use_cache=True)
                cache, start = output.past_key_values, start + size
                parts.append(output.logits)
    assert isinstance(cache, BridgeCache)
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-3, rtol=1e-3)


def test_logits_to_keep_and_labels(bridge):
    ids = encode(bridge.vocabulary, PROMPTS[1])
    with torch.no_grad():
        full = bridge(ids, labels=ids)
        torch.testing.assert_close(bridge(ids, logits_to_keep=3).logits, full.logits[:, -3:], atol=1e-4, rtol=1e-4)
    expected = torch.nn.functional.cross_entropy(full.logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(full.loss, expected)


def test_greedy_generation_is_the_argmax_of_uncached_forwards(bridge):
    ids = encode(bridge.vocabulary, PROMPTS[1])
    found = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=GREEDY)
    with torch.no_grad():
        for _ in range(found.shape[1] - ids.shape[1]):
            ids = torch.cat([ids, bridge(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, ids)


def test_a_left_padded_batch_generates_row_by_row(bridge):
    together = bridge.generate(**padded(bridge.vocabulary, PROMPTS), generation_config=GREEDY)
    for row, prompt in zip(together, PROMPTS, strict=True):
        ids = encode(bridge.vocabulary, prompt)
        alone = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=GREEDY)[0, ids.shape[1] :]
        assert row[-24:].tolist()[: len(alone)] == alone.tolist()


@pytest.mark.parametrize("carry", [Carry.LINEAR, Carry.INFORMED])
def test_beam_search_with_and_without_caches(parts, carry):
    bridge = parts.bridge(carry=carry, strength=0.6)
    inputs = padded(bridge.vocabulary, PROMPTS[:2])
    config = {"num_beams": 3, "do_sample": False, "max_new_tokens": 10, "pad_token_id": 1}
    cached = bridge.generate(**inputs, generation_config=GenerationConfig(**config))
    plain = bridge.generate(**inputs, generation_config=GenerationConfig(**config, use_cache=False))
    assert torch.equal(cached, plain)


def test_sampling_runs(parts):
    bridge = parts.bridge()
    config = GenerationConfig(max_new_tokens=8, do_sample=True, top_k=20, num_return_sequences=3, pad_token_id=1)
    ids = encode(bridge.vocabulary, PROMPTS[0])
    output = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    assert output.shape[0] == 3


def test_a_text_of_end_tokens_and_unused_ids_is_read_as_no_text(parts):
    bridge = parts.bridge()
    ids = encode(bridge.vocabulary, "The fox")
    odd = torch.cat([ids, torch.tensor([[1, 703, 0]])], 1)
    with torch.no_grad():
        scores, speaks = bridge.scores(odd, None, 4, {"tuned": True}, None)
    assert speaks.all()
    assert (scores.tuned[0] == scores.tuned[0, 0]).all()


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_alignment_for_other_tokenizers_is_refused(parts, side):
    small, base = parts.small.vocabulary, parts.base.vocabulary
    wrong = align(base, base, method="exact", cache=False) if side == "source" else None
    wrong = wrong or align(small, small, method="exact", cache=False)
    with pytest.raises(VocabridgeError, match=f"made for the {side} tokenizer"):
        Bridge.over(parts.base, parts.pair, wrong)


def test_another_models_cache_is_refused(parts):
    bridge = parts.bridge()
    with pytest.raises(VocabridgeError, match="DynamicCache"):
        bridge(torch.tensor([[5]]), past_key_values=DynamicCache())
    with pytest.raises(NotImplementedError, match="assisted"):
        BridgeCache().crop(3)


@pytest.mark.parametrize("change", [{"strength": 1.0}, {"combination": Combination(Carry.INFORMED, 1, 1, 0)}])
def test_a_change_that_needs_other_models_in_the_middle_of_a_text_is_refused(parts, change):
    bridge = parts.bridge(strength=0.0 if "strength" in change else 1.0)
    with torch.no_grad():
        cache = bridge(torch.tensor([[5, 6]]), use_cache=True).past_key_values
        for name, value in change.items():
            setattr(bridge, name, value)
        with pytest.raises(VocabridgeError, match="start a new cache"):
            bridge(torch.tensor([[7]]), past_key_values=cache)


def test_another_strength_in_the_middle_of_a_text_is_allowed(parts):
    bridge = parts.bridge()
    ids = encode(bridge.vocabulary, PROMPTS[0])
    with torch.no_grad():
        cache = bridge(ids[:, :-1], use_cache=True).past_key_values
        bridge.strength = 0.5
        found = bridge(ids[:, -1:], past_key_values=cache).logits
        torch.testing.assert_close(found, bridge(ids).logits[:, -1:], atol=1e-3, rtol=1e-3)


def test_the_bases_weights_stay_and_need_no_gradient(parts):
    before = {name: tensor.clone() for name, tensor in parts.base.model.state_dict().items()}
    bridge = parts.bridge()
    bridge.generate(**padded(bridge.vocabulary, PROMPTS), generation_config=GREEDY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.base.model.state_dict().items())
    with torch.no_grad():
        assert not bridge(torch.tensor([[5]])).logits.requires_grad


def test_it_looks_like_its_base(parts):
    bridge = parts.bridge()
    assert bridge.config is parts.base.model.config
    assert (bridge.device, bridge.dtype) == (parts.base.model.device, torch.float32)
    assert bridge.get_input_embeddings() is parts.base.model.get_input_embeddings()
    assert bridge.get_output_embeddings() is parts.base.model.get_output_embeddings()
    assert bridge.can_generate()
