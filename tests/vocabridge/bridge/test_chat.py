"""Every model of a bridge reads one list of messages as its own chat template writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.bridge.chat import chat_prompt
from vocabridge.bridge.model import Bridge
from vocabridge.decoding.incremental_tokenizer import IncrementalTokenizer
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel, model_folder, resolve_vocabulary
from vocabridge.models.transformers_version import CACHE
from vocabridge.options import BoundaryPolicy

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\nThe wor' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{%- for m in messages -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{%- endfor -%}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
QUESTION = [{"role": "user", "content": "How many 🙂 in 24*7 days?"}]
CONVERSATIONS = [
    QUESTION,
    [
        {"role": "user", "content": "The quick brown fox  "},
        {"role": "assistant", "content": "jumps over <b>the</b> lazy dog."},
        {"role": "user", "content": "東京\n\nnaïve <|im_end|> or <end_of_turn>?"},
    ],
]
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}


@dataclass(frozen=True)
class Chat:
    """A bridge of chat models, and their tokenizers as transformers has them."""

    bridge: Bridge
    source: PreTrainedTokenizerFast
    target: PreTrainedTokenizerFast


def chat_tokenizer(folder, template, controls):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(controls)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", chat_template=template
    )


def built(parts, tokenizer_folders, templates=(CHATML, GEMMA), add_bos_token=(False, True), **arguments) -> Chat:
    source = chat_tokenizer(tokenizer_folders.source, templates[0], ["<|im_start|>", "<|im_end|>"])
    target = chat_tokenizer(tokenizer_folders.target, templates[1], ["<start_of_turn>", "<end_of_turn>"])
    small = Vocabulary.from_tokenizer(source, size=416, name="small chat model", add_bos_token=add_bos_token[0])
    large = Vocabulary.from_tokenizer(target, size=704, name="large chat model", add_bos_token=add_bos_token[1])
    tuned, untuned = (replace(model, vocabulary=small) for model in (parts.tuned, parts.small))
    base = LoadedModel("base", "", parts.base.model, large)
    alignment = align(small, large, method="identical-bytes", cache=False)
    return Chat(Bridge.over(base, ExpertPair(tuned, untuned), alignment, **arguments), source, target)


@pytest.fixture(scope="module")
def chat(parts, tokenizer_folders):
    return built(parts, tokenizer_folders)


def rendered_ids(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def read_prompts(bridge, conversations):
    """Run a bridge on prompts; return its cache, and the source's tokenizer of each row."""
    prompt = chat_prompt(bridge, conversations)
    with torch.no_grad():
        bridge(**prompt)
    cache = prompt[CACHE]
    return cache, [text.tokenizer for text in cache.streams._streams[0]._texts]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_each_model_reads_the_very_ids_of_its_own_template(chat, messages):
    prompt = chat_prompt(chat.bridge, messages)
    assert prompt["input_ids"].tolist() == [rendered_ids(chat.target, messages)]
    _, (reader,) = read_prompts(chat.bridge, messages)
    assert reader.ids == rendered_ids(chat.source, messages)


def test_a_batch_of_conversations_is_padded_on_the_left(chat):
    prompt = chat_prompt(chat.bridge, CONVERSATIONS)
    for row, mask, messages in zip(prompt["input_ids"], prompt["attention_mask"], CONVERSATIONS, strict=True):
        ids = rendered_ids(chat.target, messages)
        assert row[-len(ids) :].tolist() == ids
        assert mask.tolist() == [0] * (len(row) - len(ids)) + [1] * len(ids)
    _, readers = read_prompts(chat.bridge, CONVERSATIONS)
    assert [reader.ids for reader in readers] == [rendered_ids(chat.source, messages) for messages in CONVERSATIONS]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("expected", [False, True])
def test_the_bos_token_is_there_once_where_it_is_written_or_expected(parts, tokenizer_folders, written, expected):
    bos = "{{ bos_token }}" if written else ""
    body = "{% for m in messages %}<b>{{ m.content }}{% endfor %}"
    chat = built(parts, tokenizer_folders, (bos + body, bos + body), (expected, expected))
    _, (reader,) = read_prompts(chat.bridge, QUESTION)
    for ids in (reader.ids, chat_prompt(chat.bridge, QUESTION)["input_ids"][0].tolist()):
        assert ids.count(0) == (written or expected)
        assert ids[0] == 0 or not (written or expected)


def test_the_bases_text_is_read_together_with_the_templates_last_words_and_with_the_sources_own_turn_end(chat):
    cache, (reader,) = read_prompts(chat.bridge, QUESTION)
    for text in ("d", "s, brown", "<end_of_turn>", "\nThe"):
        ids = torch.tensor([chat.target.encode(text, add_special_tokens=False)])
        with torch.no_grad():
            chat.bridge(ids, past_key_values=cache)
    rendered = chat.source.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    quick = chat.source.encode(rendered + "ds, brown<|im_end|>\nThe", add_special_tokens=False)
    (reader,) = (text.tokenizer for text in cache.streams._streams[0]._texts)
    assert reader.ids == quick
    assert quick[: len(rendered_ids(chat.source, QUESTION))] != rendered_ids(
        chat.source, QUESTION
    )  # "wor" was not committed


def test_the_sources_scores_are_those_of_its_own_template(chat):
    steering = chat.bridge.steering
    prompt = chat_prompt(chat.bridge, QUESTION)
    with torch.no_grad():
        cache = prompt.pop(CACHE)
        ids = prompt["input_ids"].where(prompt["attention_mask"] != 0, -1)
        ((_, stream, positions),) = cache.streams.advance(chat.bridge.steerings, ids.tolist(), 0, 1)
        first = stream.predictor.predict(positions, ("tuned", "untuned"), ids.device)
        scores, active = first.scores, first.active
        ids = torch.tensor([rendered_ids(chat.source, QUESTION)])
        assert active.tolist() == [[1.0]]
        for name, found in (("tuned", scores.tuned), ("untuned", scores.untuned)):
            expected = steering.source.models[name](ids).logits[:, -1]
            torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_generation_of_a_batch_is_that_of_its_conversations(parts, tokenizer_folders, more):
    bridge = built(parts, tokenizer_folders, policy=BoundaryPolicy.HEAL).bridge
    config = GenerationConfig(**GREEDY | more)
    together = bridge.generate(**chat_prompt(bridge, CONVERSATIONS), generation_config=config)
    alone = [
        bridge.generate(**chat_prompt(bridge, conversation), generation_config=config) for conversation in CONVERSATIONS
    ]
    new = [row.tolist()[-8:] for row in together]
    assert new == [row[-8:] for rows in alone for row in rows.tolist()]


def test_templates_change_what_is_generated(chat):
    """Else the tests above would pass without templates."""
    prompt = chat_prompt(chat.bridge, QUESTION)
    plain = {name: prompt[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert not torch.allclose(chat.bridge(**prompt).logits[:, -1], chat.bridge(**plain).logits[:, -1], atol=0.1)


@pytest.mark.parametrize(("templates", "name"), [((None, GEMMA), "small"), ((CHATML, None), "large")])
def test_a_model_without_a_template_is_named(parts, tokenizer_folders, templates, name):
    chat = built(parts, tokenizer_folders, templates)
    with pytest.raises(VocabridgeError, match=f"{name} chat model has no chat template; give plain text"):
        chat_prompt(chat.bridge, QUESTION)


def test_a_source_that_is_inactive_needs_no_template(parts, tokenizer_folders):
    bridge = built(parts, tokenizer_folders, (None, GEMMA), strength=0.0).bridge
    prompt = chat_prompt(bridge, QUESTION)
    ids = prompt["input_ids"]
    output = bridge.generate(**prompt, generation_config=GenerationConfig(**GREEDY))
    assert torch.equal(output, bridge.base.generate(ids, generation_config=GenerationConfig(**GREEDY)))


@pytest.mark.parametrize("messages", [[{"role": "user"}], [{"content": "x"}], [QUESTION, [{"role": "user"}]]])
def test_messages_that_a_template_does_not_take_are_refused(chat, messages):
    with pytest.raises(VocabridgeError, match=re.escape('give a list of messages, each with "role" and "content"')):
        chat_prompt(chat.bridge, messages)


@pytest.mark.parametrize("messages", [[], [[]], [QUESTION, []]])
def test_no_messages_are_refused(chat, messages):
    with pytest.raises(VocabridgeError, match="a conversation has no messages"):
        chat_prompt(chat.bridge, messages)


@pytest.mark.real
def test_a_real_models_ids_are_those_of_transformers():
    name = "smollm2-135m-instruct"
    vocabulary, tokenizer = resolve_vocabulary(name), AutoTokenizer.from_pretrained(model_folder(name))
    for messages in (
        *CONVERSATIONS,
        [{"role": "system", "content": "Be brief."}, *QUESTION],
        [{"role": "user", "content": "  spaces\t\nand lines\n\n"}],
    ):
        reader = IncrementalTokenizer(vocabulary)
        for piece in vocabulary.pieces(vocabulary.render(messages)):
            reader.append(piece)
        assert reader.ids == rendered_ids(tokenizer, messages)
        assert vocabulary.encode(vocabulary.render(messages)).ids.tolist() == rendered_ids(tokenizer, messages)
