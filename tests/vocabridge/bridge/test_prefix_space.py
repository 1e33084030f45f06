"""Models of tokenizers that put a space in front of text read prompts and chats as transformers gives them."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from tiny import SHAPE, unigram
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vocabridge.alignment import Vocabulary, align
from vocabridge.bridge.chat import chat_prompt
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.streaming import stream
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.evaluation.scoring import evaluated_model
from vocabridge.models.examples import Example, tokenize
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import LoadedModel
from vocabridge.models.prompts import prompt_ids
from vocabridge.models.transformers_version import CACHE
from vocabridge.options import BoundaryPolicy
from vocabridge.training.bases import align_texts
from vocabridge.training.dataset import load_training_texts

KINDS = ["byte-level", "never", "first", "always", "llama-2"]
EXACT = ["byte-level", "first", "llama-2"]
"""Of which the tokens spell every text."""

TEXTS = [
    "Question: 12 foxes?\nAnswer:",
    "fox",
    " fox",
    "a  b",
    "\nThe dogs",
    "日本の fox",
    "The quick brown fox jumps 12",
]
CHAT = (
    "{% for m in messages %}{{ '<|begin|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|begin|>' }}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "The fox?"}, {"role": "assistant", "content": "a dog"}] * 2 + [
    {"role": "user", "content": "12 days\n"}
]


def made(kind: str, folders, text) -> Tokenizer:
    if kind == "byte-level":
        return Tokenizer.from_file(str(folders.source / "tokenizer.json"))
    if kind in ("never", "always"):
        tokenizer = unigram(text)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
        return tokenizer
    tokenizer = Tokenizer.from_file(str(folders.target / "tokenizer.json"))
    if kind == "first":
        spec = json.loads(tokenizer.to_str()) | {"normalizer": None}
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


@pytest.fixture(scope="module")
def theirs(tokenizer_folders, training_text) -> dict[str, PreTrainedTokenizerFast]:
    """Return the tokenizers as transformers loads them."""
    found = {}
    for kind in KINDS:
        tokenizer = made(kind, tokenizer_folders, training_text)
        tokenizer.add_special_tokens([AddedToken("<|user|>", special=True)])
        names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": CHAT}
        found[kind] = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    return found


@pytest.fixture(scope="module")
def models(theirs) -> dict[str, LoadedModel]:
    found = {}
    for number, (kind, tokenizer) in enumerate(theirs.items()):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=720, bos_token_id=0, eos_token_id=1, **SHAPE)).eval()
        vocabulary = Vocabulary.from_tokenizer(tokenizer, size=720, name=kind, add_bos_token=kind != "byte-level")
        found[kind] = LoadedModel(kind, "", model, vocabulary)
    return found


def bridged(models: dict[str, LoadedModel], base: str, source: str, **arguments) -> Bridge:
    pair = ExpertPair(models[source], models[source])
    alignment = align(pair.vocabulary, models[base].vocabulary, method="retokenize", cache=False)
    return Bridge.over(models[base], pair, alignment, **arguments)


def begun(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids that transformers gives the model."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [0, *ids] if vocabulary.add_bos_token else ids


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_examples_are_encoded_as_transformers_does(models, theirs, kind):
    vocabulary = models[kind].vocabulary
    for text in TEXTS:
        assert prompt_ids(vocabulary, text) == begun(vocabulary, theirs[kind], text)
    tokens = tokenize(Example(TEXTS[0], " 12 dogs", None, "1", "1"), vocabulary)
    assert tokens.ids == begun(vocabulary, theirs[kind], TEXTS[0] + " 12 dogs")
    response = b"".join(vocabulary.token_bytes[i] or b"?" for i in tokens.ids[tokens.first :])
    assert response in (b" 12 dogs", b": 12 dogs")  # a token may hold the prompt's last byte and the first space


@pytest.mark.parametrize("kind", KINDS)
def test_at_strength_0_what_is_written_is_what_transformers_writes(models, theirs, kind):
    bridge = bridged(models, kind, "byte-level", strength=0.0)
    for text in TEXTS[:4]:
        ids = torch.tensor([begun(bridge.vocabulary, theirs[kind], text)])
        config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=1, eos_token_id=1)
        output = models[kind].model.generate(ids, generation_config=config)[0, ids.shape[1] :].tolist()
        expected = b"".join(bridge.vocabulary.spell([*ids[0].tolist(), *output])[ids.shape[1] :])
        assert "".join(stream(bridge, text, max_new_tokens=6)) == expected.decode(errors="replace")


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_transformers_ids_over_the_bytes_of_the_response(models, theirs, kind):
    loaded, example = models[kind], Example("Question: 12", " foxes", None, "1", "1")
    ids = torch.tensor([begun(loaded.vocabulary, theirs[kind], example.text)])
    read = evaluated_model("base", loaded.model, loaded.vocabulary).score_response(example)
    with torch.no_grad():
        log_p = loaded.model(ids).logits[0].log_softmax(-1)
    count = len(read["bits"])
    expected = -log_p[:-1].gather(1, ids[0, 1:, None])[-count:, 0] / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(torch.tensor(read["bits"]), expected)
    assert read["ends"][-1] == len(example.response.encode())


@pytest.mark.quick(8)
@pytest.mark.parametrize(("base", "source"), list(itertools.product(KINDS, KINDS)))
def test_a_source_reads_the_text_that_the_base_reads_as_its_own_tokenizer_encodes_it(models, theirs, base, source):
    bridge = bridged(models, base, source, policy=BoundaryPolicy.HEAL)
    spells = base in EXACT or base == source  # a Unigram without byte fallback has no token for all characters
    for text in TEXTS if spells else [text for text in TEXTS if "日" not in text and "Q" not in text]:
        if base in ("first", "always") and text.startswith(" "):
            continue  # such a tokenizer has the same ids for "fox" and " fox"
        ids = [i or -1 for i in prompt_ids(bridge.vocabulary, text)]  # as a bridge hands on the bos token
        expected = begun(models[source].vocabulary, theirs[source], text)
        if base in ("never", "always"):  # NFKC, and unknown characters
            text = b"".join(bridge.vocabulary.spell(prompt_ids(bridge.vocabulary, text))).decode()
            expected = begun(models[source].vocabulary, theirs[source], text)
        for steps in ([ids], [[i] for i in ids]):
            stream = bridge.steering.open_stream(1)
            for step in steps:
                stream.advance([stream.pieces(step)], 1)
            assert stream._texts[0].tokenizer.ids == expected
            for kept in (len(ids) - 1, 1):
                stream.crop(0, kept)
                stream.advance([stream.pieces(ids[kept:])], 1)
                assert stream._texts[0].tokenizer.ids == expected


@pytest.mark.parametrize(("base", "source"), list(itertools.product(KINDS, KINDS)))
def test_a_chat_with_control_tokens_between_is_read_as_transformers_renders_it(models, theirs, base, source):
    bridge = bridged(models, base, source)
    prompt = chat_prompt(bridge, MESSAGES)
    expected = {
        k: theirs[k].apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False) for k in KINDS
    }
    assert prompt["input_ids"].tolist() == [expected[base]]
    with torch.no_grad():
        bridge(**prompt)
    cache = prompt[CACHE]
    (text,) = cache.streams._streams[0]._texts
    assert text.tokenizer.ids == expected[source]
    # What the base writes next, in its own way, is read on by the source in its own way.
    names = {k: theirs[k].decode([0]) for k in KINDS}
    written = theirs[base](names[base] + "The fox", add_special_tokens=False).input_ids[1:]
    with torch.no_grad():
        bridge(torch.tensor([written]), past_key_values=cache)
    more = theirs[source](names[source] + "The fox", add_special_tokens=False).input_ids[1:]
    (text,) = cache.streams._streams[0]._texts
    assert text.tokenizer.ids == [*expected[source], *more]


def test_after_a_control_token_a_source_without_the_space_makes_no_prediction_where_the_base_writes_one(models):
    for base, source, covers in (
        ("llama-2", "byte-level", 0),
        ("llama-2", "llama-2", 1),
        ("byte-level", "llama-2", 1),
        ("byte-level", "byte-level", 1),
    ):
        bridge = bridged(models, base, source, policy=BoundaryPolicy.HEAL)
        prompt = chat_prompt(bridge, MESSAGES)
        cache = prompt.pop(CACHE)
        ids = prompt["input_ids"].where(prompt["attention_mask"] != 0, -1).tolist()
        ((_, _, (position,)),) = cache.streams.advance(bridge.steerings, ids, 0, 1)
        assert len(position.covers) == covers
        pending = {cover.pending for cover in position.covers}
        assert pending <= ({b" "} if (base, source) == ("byte-level", "llama-2") else {b""})


@pytest.mark.parametrize("kind", EXACT)
def test_over_bytes_a_text_has_the_models_own_tokens(models, theirs, kind):
    model = ByteLM.of(models[kind])
    for text in TEXTS:
        pieces = model.vocabulary.pieces(text)
        expected = begun(model.vocabulary, theirs[kind], text)
        assert model.text(pieces).ids == expected
        assert model.text([bytes([byte]) for byte in text.encode()]).ids == expected


@pytest.mark.parametrize("kind", EXACT)
def test_over_bytes_the_likelihood_of_a_response_is_that_of_its_tokens_where_no_others_spell_it(models, kind):
    model, tokens = ByteLM.of(models[kind], tolerance=0.0), prompt_ids(models[kind].vocabulary, "fox")
    p = model.text([b"fox"]).next().p[0]
    assert p.sum() == pytest.approx(1)
    with torch.no_grad():
        own = models[kind].model(torch.tensor([tokens])).logits[0, -1].softmax(-1)
    end = model.control_ids.tolist().index(1)
    assert p[256 + end] > 0
    assert own[1] > 0


def test_training_texts_are_those_of_transformers_and_the_same_for_every_model(models, theirs, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "The fox and the dogs"}) + "\n")
    texts = {k: load_training_texts(path, m.vocabulary, max_length=99) for k, m in models.items()}
    for kind, (training_text,) in texts.items():
        vocabulary = models[kind].vocabulary
        assert training_text.ids[:-1] == begun(vocabulary, theirs[kind], "The fox and the dogs")
    for source, base in itertools.product(KINDS, KINDS):
        (aligned,) = align_texts(texts[source], models[source].vocabulary, texts[base], models[base].vocabulary)
        assert any(aligned.learned)
