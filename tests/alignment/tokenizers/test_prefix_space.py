"""The space that tokenizers put in front of text is in prompts, as in transformers, and not in the text of tokens."""

from __future__ import annotations

import json

import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefixed_tokenizers import TOKENIZERS
from tokenizer_kinds import TEXT
from tokenizers import AddedToken, processors

from vocabridge.alignment import Place, Vocabulary

CONTROLS = ["<s>", "</s>", "<|user|>"]

FRAGMENTS = ["The fox.", "Question: How", "a", " ", "  b", "\n", "\n\nx", "é", "日本", "👍", "12", "(x)", "▁", "<unk>"]
FRAGMENTS += CONTROLS

texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=8).map("".join)


PREFIXED = {
    "byte-level with a prefix": (True, True),
    "metaspace first": (True, False),
    "metaspace always": (True, True),
    "mistral": (True, False),
    "llama-2": (True, True),
    "llama-2 of before": (True, False),
}
"""The tokenizers that put a space in front of text: whether at its beginning, and whether after a control token."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind, make in TOKENIZERS.items():
        tokenizer = make()
        tokenizer.add_special_tokens([AddedToken("<|user|>", special=True, normalized=kind == "llama-2 of before")])
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
        made[kind] = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save(str(made[kind] / "tokenizer.json"))
        names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
        (made[kind] / "tokenizer_config.json").write_text(json.dumps(names))
    return made


@pytest.fixture(scope="module")
def theirs(folders):
    """Load the tokenizers with transformers."""
    transformers = pytest.importorskip("transformers")
    return {kind: transformers.AutoTokenizer.from_pretrained(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def ours(folders):
    return {kind: Vocabulary.load(folder) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=texts)
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_is_encoded_as_transformers_does(ours, theirs, kind, text):
    vocabulary = ours[kind]
    expected = theirs[kind](text)["input_ids"]
    assert [vocabulary.roles["bos"], *vocabulary.encode_prompt(text).ids.tolist()] == expected
    assert vocabulary.encode_prompt(text).ids.tolist() == theirs[kind](text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind not in ("wordpiece", "llama-2 of before")])
@given(text=texts)
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_text_with_its_prefixes_is_encoded_bare_as_transformers_encodes_the_text(ours, theirs, kind, text):
    written = ours[kind].with_prefixes(text, Place.BEGINNING)
    assert ours[kind].encode(written).ids.tolist() == theirs[kind](text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [*PREFIXED])
@given(text=texts)
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_starts_are_bytes_of_the_text_without_the_spaces_in_front(ours, kind, text):
    starts = [start for start in ours[kind].encode_prompt(text).starts.tolist() if start >= 0]
    assert starts == sorted(starts)
    assert all(start <= len(text.encode()) for start in starts)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_rules_of_the_prepended_space_are_found(ours, kind):
    beginning, after_control = PREFIXED.get(kind, (False, False))
    space = ours[kind].prefix_space
    assert space.prefix("word", Place.BEGINNING) == " " * beginning
    assert space.prefix("word", Place.AFTER_CONTROL) == " " * after_control
    assert space.prefix("word", Place.INSIDE) == ""
    assert space.prefix("", Place.BEGINNING) == ""


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind not in ("wordpiece", "llama-2 of before")])
@pytest.mark.parametrize("text", ["The fox jumps", "<|user|>The fox.<|user|>a (x)", "12: 48"])
def test_tokens_spell_the_text_without_the_prepended_spaces(ours, kind, text):
    spelled = ours[kind].spell([0, *ours[kind].encode_prompt(text).ids.tolist()])
    assert b"".join(spelled).decode() == text.replace("<|user|>", "")


def test_alignments_use_the_bare_tokenizer(ours):
    for kind, vocabulary in ours.items():
        if kind != "wordpiece":
            assert b"".join(vocabulary.token_bytes[i] or b"" for i in vocabulary.encode("a fox").ids) == b"a fox"
    assert TEXT
