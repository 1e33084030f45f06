"""A bridge has transformers' methods: each is right for several models, or refused with a sentence."""

from __future__ import annotations

import inspect
import logging
import warnings

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, PreTrainedTokenizerFast, pipeline
from transformers.utils import logging as transformers_logging

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.build import build_bridge
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.streaming import stream
from vocabridge.models.prompts import left_padded, prompt_ids
from vocabridge.projection.combination import Combination

F32 = torch.float32
GREEDY = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1)
TEXTS = ["The quick brown fox", "cafés, naïve 東京 🙂"]

REFUSED = {
    "active_adapters": (),
    "add_adapter": (None,),
    "continuous_batching_context_manager": (),
    "delete_adapter": ("a",),
    "dequantize": (),
    "disable_adapters": (),
    "enable_adapters": (),
    "enable_input_require_grads": (),
    "enable_peft_hotswap": (),
    "generate_batch": ([[1, 2]],),
    "get_adapter_state_dict": (),
    "gradient_checkpointing_enable": (),
    "init_continuous_batching": (),
    "init_weights": (),
    "initialize_weights": (),
    "load_adapter": ("a",),
    "push_to_hub": ("me/bridge",),
    "register_for_auto_class": (),
    "resize_position_embeddings": (100,),
    "resize_token_embeddings": (1000,),
    "save_distributed_checkpoint": ("folder",),
    "set_adapter": ("a",),
    "set_decoder": (None,),
    "set_encoder": (None,),
    "set_input_embeddings": (None,),
    "set_output_embeddings": (None,),
}
"""Methods that cannot mean anything for a bridge, with arguments."""

RIGHT = {
    # of a bridge's own
    *("cpu", "cuda", "float", "from_pretrained", "generate", "half", "save_pretrained", "to"),
    # of the base model
    *("get_decoder", "get_encoder", "get_experts_implementation", "get_position_embeddings", "set_attn_implementation"),
    *("set_experts_implementation", "set_use_kernels"),
    # right as they are inherited: they read, or treat all models alike
    *("add_model_tags", "can_generate", "compute_transition_scores", "eval", "get_compiled_call"),
    *("get_memory_footprint", "get_parameter_or_buffer", "heal_tokens", "load_custom_generate"),
    *("named_non_persistent_buffers", "num_parameters", "prepare_inputs_for_generation", "tie_weights", "train"),
    *("warn_if_padding_and_no_attention_mask", "adjust_generation_fn", "get_input_embeddings", "get_output_embeddings"),
    # that undo what a bridge never does
    *("activation_checkpointing_disable", "disable_input_require_grads", "gradient_checkpointing_disable"),
    *("destroy_cached_continuous_batching_manager",),
    # steps of transformers' own loading and saving, which a bridge does not go through
    *(
        "barrier_after_gathered_checkpoint_save",
        "gather_sharded_state_dict_for_save",
        "get_correct_attn_implementation",
    ),
    *(
        "get_correct_experts_implementation",
        "get_expanded_tied_weights_keys",
        "get_init_context",
        "init_parallel_plans",
    ),
    *("is_backend_compatible", "is_custom_code", "is_remote_code", "mark_tied_weights_as_initialized"),
    *("maybe_distribute_model", "post_init", "prepare_distribute_model", "retrieve_modules_from_names"),
    *("should_save_on_this_rank",),
}


@pytest.fixture
def saved(own, parts) -> Bridge:
    """Build a bridge of models in folders."""
    parts.alignment.save(own / "pair.safetensors")
    names = str(own / "target"), str(own / "tuned")
    bridge = build_bridge(*names, untuned=str(own / "source"), alignment=own / "pair.safetensors", dtype=F32)
    bridge.steering.combination = Combination(base_weight=0.5, tuned_weight=0.75, untuned_weight=0.25)
    return bridge


def inputs(bridge):
    return left_padded([prompt_ids(bridge.vocabulary, text) for text in TEXTS], pad=1)


def test_save_pretrained_and_from_pretrained_keep_every_bit(saved, own):
    saved.save_pretrained(own / "bridge")
    again = Bridge.from_pretrained(own / "bridge", dtype=F32)
    with torch.no_grad():
        assert torch.equal(again(**inputs(saved)).logits, saved(**inputs(saved)).logits)
    ours, theirs = (bridge.generate(**inputs(saved), generation_config=GREEDY) for bridge in (saved, again))
    assert torch.equal(ours, theirs)
    assert {file.name for file in (own / "bridge").iterdir()} == {"bridge.json", "alignment-1.safetensors"}


def test_settings_that_a_bridge_s_folder_has_not_are_refused(saved, own):
    with pytest.raises(VocabridgeError, match="a bridge is saved without max_shard_size, push_to_hub"):
        saved.save_pretrained(own / "bridge", push_to_hub=True, max_shard_size="1GB")
    assert not (own / "bridge").exists()
    with pytest.raises(VocabridgeError, match="a bridge is loaded without quantization_config; it takes device"):
        Bridge.from_pretrained(own / "bridge", quantization_config=None)
    with pytest.raises(VocabridgeError, match=r"is no bridge, there is no bridge\.json"):
        Bridge.from_pretrained(own / "target")


def test_every_public_method_of_transformers_is_right_or_refused():
    """A method that a new transformers has is looked at before it is inherited."""
    theirs = {
        name
        for name in dir(Bridge)
        if not name.startswith("_")
        and (hasattr(PreTrainedModel, name) or hasattr(GenerationMixin, name))
        and not hasattr(torch.nn.Module, name)
        and callable(getattr(Bridge, name))
        and not inspect.isclass(inspect.getattr_static(Bridge, name))
    }
    assert theirs - REFUSED.keys() - RIGHT == {"activation_checkpointing_enable"} & theirs


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_mean_nothing_for_a_bridge_are_refused_with_a_sentence(parts, name):
    bridge = parts.bridge()
    before = {key: value.clone() for key, value in bridge.state_dict().items()}
    with pytest.raises(VocabridgeError, match=f"^{name}: a bridge .*; .") as refused:
        getattr(bridge, name)(*REFUSED[name])
    assert "\n" not in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in bridge.state_dict().items())


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_hidden_states_and_attentions_are_the_base_s(parts, strength):
    bridge, batch = parts.bridge(strength=strength), inputs(parts.bridge())
    asked = {"output_hidden_states": True, "output_attentions": True}
    bridge.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            ours, theirs = bridge(**batch, **asked), parts.base.model(**batch, **asked)
    finally:
        bridge.set_attn_implementation("sdpa")
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name]) > 0
        assert all(torch.equal(layer, of_base) for layer, of_base in zip(ours[name], theirs[name], strict=True))
    assert parts.bridge()(**batch).hidden_states is None


def test_hidden_states_of_generated_tokens_keep_the_batch_also_where_rows_have_finished(parts):
    bridge = parts.bridge()
    batch = inputs(bridge)
    plain = bridge.generate(**batch, generation_config=GREEDY)
    end = int(plain[0, batch["input_ids"].shape[1] + 1])  # the first row ends here
    found = bridge.generate(
        **batch,
        generation_config=GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1, eos_token_id=end),
        return_dict_in_generate=True,
        output_hidden_states=True,
    )
    assert {len(layer) for step in found.hidden_states for layer in step} == {2}


def test_a_tuple_is_returned_where_that_is_asked_for(parts):
    bridge, batch = parts.bridge(), inputs(parts.bridge())
    with torch.no_grad():
        output, as_tuple = bridge(**batch, use_cache=False), bridge(**batch, use_cache=False, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits)


def test_embeddings_for_text_are_refused(parts):
    bridge = parts.bridge()
    embedded = bridge.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
    for call in (bridge, bridge.generate):
        with pytest.raises(VocabridgeError, match="a bridge reads text, which inputs_embeds is not; give its tokens"):
            call(inputs_embeds=embedded)
    with pytest.raises(VocabridgeError, match="a bridge reads text; give its tokens as input_ids"):
        bridge()


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (torch.tensor([[5, 99999]]), "input_ids holds 99999, which is no id of the base; its ids are 0 to 703"),
        (torch.tensor([[-1, 5]]), "input_ids holds -1, which is no id of the base; its ids are 0 to 703"),
        (torch.empty(1, 0, dtype=torch.long), "the prompt is empty; give at least one token as input_ids"),
        (torch.tensor([5, 6]), r"input_ids is a torch.int64 of shape \(2,\); give integers of shape \(batch, number"),
    ],
)
def test_ids_that_the_base_cannot_read_are_refused(parts, ids, reason):
    bridge = parts.bridge()
    for call in (bridge, lambda ids: bridge.generate(ids, max_new_tokens=2)):
        with pytest.raises(VocabridgeError, match=reason):
            call(ids)


def test_the_attention_of_the_base_is_set_and_no_source_s(parts):
    bridge = parts.bridge()
    before = parts.small.model.config._attn_implementation
    bridge.set_attn_implementation("eager")
    try:
        assert parts.base.model.config._attn_implementation == "eager"
        assert parts.small.model.config._attn_implementation == before == "sdpa"
    finally:
        bridge.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    "cast",
    [
        lambda bridge: bridge.to(torch.bfloat16),
        lambda bridge: bridge.to("cpu", torch.float16),
        lambda bridge: bridge.to(dtype=torch.float64),
        lambda bridge: bridge.to(torch.zeros(1, dtype=torch.float16)),
        lambda bridge: bridge.half(),
        lambda bridge: bridge.bfloat16(),
        lambda bridge: bridge.double(),
        lambda bridge: bridge.type(torch.float16),
    ],
)
def test_a_cast_is_refused_and_changes_nothing(parts, cast):
    bridge = parts.bridge()
    before = {name: tensor.dtype for name, tensor in [*bridge.named_parameters(), *bridge.named_buffers()]}
    with pytest.raises(VocabridgeError, match=r"keep the dtype that they were loaded in.*again with dtype=torch\."):
        cast(bridge)
    assert {name: tensor.dtype for name, tensor in [*bridge.named_parameters(), *bridge.named_buffers()]} == before


def test_a_cast_to_what_it_is_does_nothing(parts):
    bridge = parts.bridge()
    assert bridge.float() is bridge
    assert bridge.to(F32) is bridge
    assert bridge.cpu() is bridge


def test_moving_moves_every_model_and_the_projection(saved, monkeypatch):
    with monkeypatch.context() as allowed:  # "meta" keeps no numbers, but is a second device everywhere
        allowed.setattr("vocabridge.bridge.pretrained_methods.find_device", torch.device)
        saved.to("meta")
    tensors = [*saved.parameters(), *saved.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len({id(tensor) for tensor in tensors}) > 30
    with pytest.raises(VocabridgeError, match="there is no device 'nowhere' here"):
        saved.to("nowhere")


def test_a_pipeline_takes_a_bridge_without_warnings(saved, caplog, own):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(own / "target")
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING), warnings.catch_warnings():
            warnings.simplefilter("error")
            write = pipeline("text-generation", model=saved, tokenizer=tokenizer)
            (answer,) = write("The quick brown", max_new_tokens=4, do_sample=False, return_full_text=False)
    finally:
        transformers_logging.disable_propagation()
    assert caplog.messages == []
    ids = torch.tensor([prompt_ids(saved.vocabulary, "The quick brown")])
    written = saved.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert answer["generated_text"] == tokenizer.decode(written, skip_special_tokens=True)


def test_half_of_a_surrogate_pair_in_a_prompt_or_a_stop_string_is_a_sentence(parts):
    for prompt, stop in (("a\ud83d", ()), ("a", "\ud83d")):
        with pytest.raises(VocabridgeError, match="half of a surrogate pair"):
            next(iter(stream(parts.bridge(), prompt, max_new_tokens=2, stop=stop)))
