"""Tests of training texts: the learned tokens of all kinds of records, held-out texts, and packing."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import datasets
import pytest
import torch
from effort import examples
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.data import task_file
from vocabridge.models.examples import load_examples, tokenize
from vocabridge.models.loading import resolve_vocabulary
from vocabridge.training.dataset import TrainingText, load_training_texts, pack, split

PROPERTY = settings(max_examples=examples(50))

CHATML = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\\n' + m['content'] + '<|end of turn|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{%- for m in messages -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<|turn|>' + role + '\\n' + m['content'] | trim + '\\n<|end of turn|>\\n' }}{%- endfor -%}"
    "{% if add_generation_prompt %}{{ '<|turn|>model\\n' }}{% endif %}"
)
NO_TOKENS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
THINKING = (
    "{% for m in messages %}{% set thought = '' %}{% set words = m['content'] %}"
    "{% if '</think>' in words %}{% set words = words.split('</think>')[-1] %}{% endif %}"
    "{{ '<|turn|>' + m['role'] + '\\n' + words + '<|end of turn|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n<think>\\n' }}{% endif %}"
)


def chatml(messages):
    """Yield the pieces of the rendered conversation as (text, whether the text is learned)."""
    for message in messages:
        learned = message["role"] == "assistant"
        yield f"<|turn|>{message['role']}\n", False
        yield message["content"] + "<|end of turn|>", learned
        yield "\n", False


def gemma(messages):
    yield "<|begin|>", False
    for message in messages:
        learned = message["role"] == "assistant"
        yield f"<|turn|>{'model' if learned else message['role']}\n", False
        yield message["content"].strip() + "\n<|end of turn|>", learned
        yield "\n", False


def no_tokens(messages):
    for message in messages:
        yield message["role"] + ": ", False
        yield message["content"], message["role"] == "assistant"
        yield "\n", False


def thinking(messages):
    yield from chatml([{**message, "content": message["content"].split("</think>")[-1]} for message in messages])


TEMPLATES = {"chatml": (CHATML, chatml), "gemma": (GEMMA, gemma), "no tokens": (NO_TOKENS, no_tokens)}
TEMPLATES["thinking"] = (THINKING, thinking)
KINDS = ["byte_level", "sentencepiece", "no_safe_cuts"]


@pytest.fixture(scope="session")
def chat_vocabularies(vocabularies) -> dict[tuple[str, str], Vocabulary]:
    """Return vocabularies of several kinds with each template; sentencepiece expects a bos token."""
    vocabularies_by_template = {}
    for kind in KINDS:
        for name, (template, _) in TEMPLATES.items():
            tokenizer = Tokenizer.from_str(vocabularies[kind].tokenizer.to_str())
            tokenizer.add_special_tokens(["<|turn|>", "<|end of turn|>"])
            roles = {"bos": 0, "eos": 1, "turn end": tokenizer.token_to_id("<|end of turn|>")}
            if name == "no tokens":
                del roles["turn end"]
            view = Vocabulary.from_tokenizer(
                tokenizer, size=vocabularies[kind].size, name=kind, roles=roles, add_bos_token=kind == "sentencepiece"
            )
            vocabularies_by_template[kind, name] = replace(view, template=template)
    return vocabularies_by_template


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Return a function that writes records to a file."""
    folder = tmp_path_factory.mktemp("data")

    def write(*records, name="data.jsonl"):
        path = folder / name
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        return path

    return write


WORDS = st.lists(
    st.sampled_from(
        ["a", "b", " the", "The quick", "12", "\n", "  ", "é", "🙂", "東京", "<|end of turn|>", "</think>", "."]
    )
    | st.characters(exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=6,
).map("".join)


@st.composite
def conversations(draw, words=WORDS):
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=5))
    roles.insert(draw(st.integers(0, len(roles))), "assistant")
    return [{"role": role, "content": draw(words)} for role in roles]


def learned_characters(pieces):
    return [learned for text, learned in pieces for _ in text]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations())
@PROPERTY
def test_a_conversations_assistant_messages_and_their_ends_of_turn_are_learned(
    chat_vocabularies, written, kind, name, messages
):
    vocabulary, (_, pieces) = chat_vocabularies[kind, name], TEMPLATES[name]
    (text,) = load_training_texts(written({"messages": messages}), vocabulary, max_length=10_000)
    pieces = list(pieces(messages))
    learned = learned_characters(pieces)
    encoding = vocabulary.tokenizer.encode("".join(text for text, _ in pieces), add_special_tokens=False)
    ids, learns = encoding.ids, [any(learned[slice(*offsets)]) for offsets in encoding.offsets]
    if vocabulary.add_bos_token and ids[0] != 0:
        ids, learns = [0, *ids], [False, *learns]
    assert text.ids == ids
    assert text.learned == [False, *learns[1:]]
    assert text.starts == (0,)


PLAIN = st.lists(st.sampled_from(["one", "two", "fox", "dog", "12"]), min_size=1, max_size=5).map(" ".join)


def by_turns(vocabulary, messages):
    """Return the mask of learned tokens, from the encodings of the conversation up to each message."""
    learned = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, full = (
            vocabulary.encode_prompt(
                vocabulary.render(messages[: turn + with_answer], add_generation_prompt=not with_answer)
            ).ids.tolist()
            for with_answer in (0, 1)
        )
        last = max(i for i, token in enumerate(full) if token == vocabulary.roles["turn end"])
        learned += [False] * (len(prompt) - len(learned)) + [True] * (last + 1 - len(prompt))
    return learned


@pytest.mark.parametrize("name", ["chatml", "gemma"])
@given(messages=conversations(PLAIN))
@PROPERTY
def test_the_learned_tokens_are_those_that_a_turn_adds_to_its_prompt(chat_vocabularies, written, name, messages):
    vocabulary = chat_vocabularies["byte_level", name]
    (text,) = load_training_texts(written({"messages": messages}), vocabulary, max_length=10_000)
    learned = by_turns(vocabulary, messages)
    assert text.learned == learned + [False] * (len(text.ids) - len(learned))


@pytest.mark.real
def test_the_learned_tokens_of_a_conversation_with_the_template_of_a_real_model(written):
    vocabulary = resolve_vocabulary("smollm2-135m-instruct")
    for messages in (
        [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hi! How can I help?"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How much is 7 times 24?"},
            {"role": "assistant", "content": "It is 168."},
            {"role": "user", "content": "And 8 times 24?"},
            {"role": "assistant", "content": "Again 24 more:\n\n192"},
        ],
    ):
        (text,) = load_training_texts(written({"messages": messages}), vocabulary, max_length=1000)
        learned = by_turns(vocabulary, messages)
        rendered = vocabulary.render(messages, add_generation_prompt=False)
        assert text.ids == vocabulary.encode_prompt(rendered).ids.tolist()
        assert text.learned == learned + [False] * (len(text.ids) - len(learned))


def with_end_token(ids, vocabulary):
    end = [vocabulary.roles["eos"]] if "eos" in vocabulary.roles else []
    return ids if ids[-1:] == end else ids + end


@given(prompt=WORDS, response=WORDS)
@example(prompt="\n", response="\n")  # some tokenizers drop white space
@PROPERTY
def test_an_examples_response_and_end_token_are_learned(any_vocabulary, written, prompt, response):
    path = written({"prompt": prompt, "response": response})
    tokens = tokenize(load_examples(path)[0], any_vocabulary)
    if len(with_end_token(tokens.ids, any_vocabulary)) == 1:  # the end token alone, which no token predicts
        with pytest.raises(VocabridgeError, match="line 1, has no token that another predicts"):
            load_training_texts(path, any_vocabulary, max_length=10_000)
        return
    (text,) = load_training_texts(path, any_vocabulary, max_length=10_000)
    assert text.ids == with_end_token(tokens.ids, any_vocabulary)
    assert text.learned == [0 < i >= tokens.first for i in range(len(text.ids))]


@given(words=WORDS)
@PROPERTY
def test_all_tokens_of_a_plain_text_but_the_first_are_learned(any_vocabulary, written, words):
    assume(any_vocabulary.encode_prompt(words).ids.size)  # some tokenizers drop white space
    for vocabulary in (any_vocabulary, replace(any_vocabulary, add_bos_token=True)):
        (text,) = load_training_texts(written({"text": words}), vocabulary, max_length=10_000)
        bos_ids = [0] if vocabulary.add_bos_token else []
        assert text.ids == with_end_token(bos_ids + vocabulary.encode_prompt(words).ids.tolist(), vocabulary)
        assert text.learned == [False] + [True] * (len(text.ids) - 1)
        assert text.positions == list(range(len(text.ids)))


def test_an_end_token_is_not_added_to_a_text_that_has_one(vocabularies, written):
    vocabulary = vocabularies["byte_level"]
    path = written({"text": "a"}, {"text": "a<|end|>"})
    assert len({tuple(text.ids) for text in load_training_texts(path, vocabulary, max_length=9)}) == 1


def test_the_files_of_a_folder_may_be_of_different_kinds(chat_vocabularies, tmp_path):
    records = [
        {"messages": [{"role": "assistant", "content": "a"}], "prompt": "of no interest"},
        {"prompt": "a", "response": "b", "text": "of no interest", "messages": None},
        {"text": "a"},
    ]
    for i, record in enumerate(records):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps(record))
    vocabulary = chat_vocabularies["byte_level", "chatml"]
    texts = load_training_texts(tmp_path, vocabulary, max_length=100)
    alone = [load_training_texts(tmp_path / f"{i}.jsonl", vocabulary, max_length=100) for i in range(3)]
    assert [[text] for text in texts] == alone


def test_conversations_from_the_hub_give_the_same_texts_as_a_file(chat_vocabularies, written, monkeypatch):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    record = {"messages": messages, "text": None}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([record, record]))
    vocabulary = chat_vocabularies["byte_level", "chatml"]
    texts = load_training_texts("hf:a/b/train", vocabulary, max_length=100)
    assert texts == load_training_texts(written(record, record), vocabulary, max_length=100)


GOOD = {
    "example": {"prompt": "a", "response": "b"},
    "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "text": {"text": "a"},
}
ASKED = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("example", {"text": "a"}, 'has "text" where the first record has "prompt"'),
        ("text", GOOD["chat"], 'has "messages" where the first record has "text"'),
        ("text", {}, "has neither "),
        ("text", {"response": "a"}, "has neither "),
        ("text", {"text": None}, "has neither "),
        ("text", {"text": 3}, 'has no string "text"'),
        ("text", {"text": ""}, 'has an empty "text"'),
        ("text", {"text": "\ud800"}, "holds half of a surrogate pair"),
        ("text", {"text": "a" * 99}, "has 100 tokens, more than the limit of 99"),
        ("example", {"prompt": "a"}, 'has no string "response"'),
        ("example", {"prompt": "a", "response": ""}, "has an empty prompt or response"),
        ("example", {"prompt": "a", "response": "b\udfff"}, "holds half of a surrogate pair"),
        ("chat", {"messages": {}}, 'has "messages" that are no list'),
        ("chat", {"messages": ["a"]}, 'has "messages" that are no list'),
        ("chat", {"messages": []}, "has no message of the assistant"),
        ("chat", {"messages": [ASKED]}, "has no message of the assistant"),
        ("chat", {"messages": [ASKED, {"role": "assistant"}]}, 'message 2, has no string "content"'),
        ("chat", {"messages": [ASKED, {"content": "a"}]}, 'message 2, has no string "role"'),
        (
            "chat",
            {"messages": [ASKED, {"role": "assistant", "content": ""}]},
            "message 2, is an empty message of the assist",
        ),
        ("chat", {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text"}]}]}, "message 2, has no str"),
        ("chat", {"messages": [{**ASKED, "content": "\ud800"}]}, "holds half of a surrogate pair"),
    ],
)
def test_an_error_names_the_bad_record(chat_vocabularies, written, good, bad, message):
    path = written(GOOD[good], bad)
    vocabulary = chat_vocabularies["no_safe_cuts", "chatml"]
    with pytest.raises(VocabridgeError) as error:
        load_training_texts(path, vocabulary, max_length=99)
    assert f"{path}, line 2, {message}" in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "byte_level has no chat template"),
        ("{{ raise_exception('no') }}", "cannot render these messages"),
        ("{{ messages[0]['content'] }}", "the chat template of byte_level leaves out message 2"),
    ],
)
def test_an_error_names_a_conversation_that_the_template_rejects(chat_vocabularies, written, template, message):
    path = written(GOOD["chat"])
    vocabulary = replace(chat_vocabularies["byte_level", "chatml"], template=template)
    with pytest.raises(VocabridgeError) as error:
        load_training_texts(path, vocabulary, max_length=99)
    assert str(error.value).startswith(f"{path}, line 1: ")
    assert message in str(error.value)


def test_a_text_of_one_token_is_an_error(tiny, written):
    path = written({"text": "ab"}, {"text": "a"})
    with pytest.raises(VocabridgeError, match="line 2, has no token that another predicts"):
        load_training_texts(path, tiny["bytes"], max_length=9)


def test_the_shipped_data_gives_training_texts(vocabularies):
    path, vocabulary = task_file("train"), vocabularies["byte_level"]
    texts = load_training_texts(path, vocabulary, max_length=10_000)
    assert len(texts) == len(load_examples(path))
    longest = max(len(text.ids) for text in texts)
    with pytest.raises(VocabridgeError, match=f"has {longest} tokens, more than the limit"):
        load_training_texts(path, vocabulary, max_length=longest - 1)


TEXTS = st.lists(st.lists(st.integers(0, 999), min_size=2, max_size=9), min_size=1, max_size=30).map(
    lambda lists: [TrainingText(ids, [False, *(i % 2 == 0 for i in ids[1:])]) for ids in lists]
)


def unpacked(text):
    ends = (*text.starts[1:], len(text.ids))
    return [
        TrainingText(text.ids[start:end], text.learned[start:end]) for start, end in zip(text.starts, ends, strict=True)
    ]


def counted(texts):
    return Counter((tuple(text.ids), tuple(text.learned)) for text in texts)


@given(TEXTS, st.integers(9, 40))
@PROPERTY
def test_packing_changes_no_text_and_fills_sequences(texts, max_length):
    packed = pack(texts, max_length)
    assert packed == pack(copy.deepcopy(texts), max_length)
    parts = [part for text in packed for part in unpacked(text)]
    assert counted(parts) == counted(texts)
    assert [text.positions for text in packed] == [
        [i for part in unpacked(text) for i in range(len(part.ids))] for text in packed
    ]
    sizes = sorted(len(text.ids) for text in packed)
    assert sizes[-1] <= max_length
    assert all(size + next_size > max_length for size, next_size in pairwise(sizes))  # no two sequences fit into one
    assert counted(part for text in pack(packed, max_length) for part in unpacked(text)) == counted(texts)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["source", "target", "sliding"])
def test_no_text_of_a_packed_sequence_attends_to_another(loaded, sliding, name, attention):
    model = copy.deepcopy(sliding.model if name == "sliding" else loaded[name].model).eval()
    model.set_attn_implementation(attention)
    draw = torch.Generator().manual_seed(5)
    lengths = [12, 1, 5, 11, 2, 9, 1, 1]
    texts = [TrainingText(torch.randint(3, 400, (n,), generator=draw).tolist(), [False] * n) for n in lengths]
    packed = pack(texts, 25)
    width = max(len(text.ids) for text in packed)
    assert {len(text.ids) for text in packed} != {width}  # one row is padded
    ids = torch.tensor([text.ids + [0] * (width - len(text.ids)) for text in packed])
    positions = torch.tensor([text.positions + [0] * (width - len(text.ids)) for text in packed])
    compared = []
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        for text, row in zip(packed, logits, strict=True):
            for start, part in zip(text.starts, unpacked(text), strict=True):
                alone = model(input_ids=torch.tensor([part.ids]), use_cache=False).logits[0]
                torch.testing.assert_close(row[start : start + len(part.ids)], alone, rtol=1e-4, atol=1e-4)
                compared.append(part)
        masked = model(
            input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False
        ).logits
    assert counted(compared) == counted(texts)
    assert (masked - logits).abs().max() > 0.1  # with a mask, transformers does not separate packed texts


def fraction(text, seed):
    content = b"".join(i.to_bytes(4, "little") for i in text.ids)
    digest = hashlib.sha256(str(seed).encode() + b":" + content).hexdigest()
    return int(digest, 16) / 16**64


MANY = [TrainingText([i, i * i, 7], [False, True, True]) for i in range(2000)]


def test_a_text_is_held_out_by_its_hash_alone():
    train, validation = split(MANY, 0.1, 3)
    assert validation == [text for text in MANY if fraction(text, 3) < 0.1]
    assert train == [text for text in MANY if fraction(text, 3) >= 0.1]
    assert 150 < len(validation) < 250


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0.2, 0.8))
@PROPERTY
def test_whether_a_text_is_held_out_does_not_depend_on_other_texts(order, seed, share):
    parts = [counted(part) for part in split(MANY[:200], share, seed)]
    sample = random.Random(order).choices(MANY[:200], k=100)  # in another order, some texts twice
    for part, of_sample in zip(parts, split(sample, share, seed), strict=True):
        assert set(counted(of_sample)) <= set(part)
        assert sum(counted(of_sample).values()) == len(of_sample)
    assert sum(map(len, split(sample, share, seed))) == 100
    assert set(parts[1]) <= set(counted(split(MANY[:200], share + 0.1, seed)[1]))


def test_another_seed_holds_out_others():
    assert split(MANY, 0.1, 0) != split(MANY, 0.1, 1)


@pytest.mark.parametrize("share", [-0.5, 0.0, 1e-9, 1.0, 2.0])
def test_a_share_that_leaves_no_training_or_validation_texts_is_an_error(share):
    with pytest.raises(VocabridgeError, match=r"a share of .* holds out (0|20) of 20 texts"):
        split(MANY[:20], share, 0)
