"""Expert pairs: a model before and after tuning, with one tokenizer but possibly other settings."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import vocabridge
from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.cli._app import app
from vocabridge.data import value_network_folder
from vocabridge.evaluation.scoring import evaluated_donor
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import load_model, model_folder, resolve_vocabulary
from vocabridge.models.prompts import prompt_ids

CHATML = (
    "{% for m in messages %}{{ '<|begin|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}{% endif %}"
)


def settings(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def widen(folder: Path, rows: int) -> None:
    """Add rows to a model's logits that its tokenizer does not use."""
    model = LlamaForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size + rows, mean_resizing=False)
    model.save_pretrained(folder)


def add_controls(folder: Path, *names: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(names))
    tokenizer.save(str(folder / "tokenizer.json"))


CHANGES = {
    "nothing": lambda folder: None,
    "chat template": lambda folder: settings(folder, chat_template=CHATML),
    "pad token": lambda folder: settings(folder, pad_token="<|begin|>"),
    "eos token": lambda folder: settings(folder, eos_token="<|begin|>"),
    "no roles": lambda folder: settings(folder, eos_token=None, bos_token=None),
    "padded rows": lambda folder: widen(folder, 16),
    "a new pad token": lambda folder: (
        add_controls(folder, "[PAD]"),
        settings(folder, pad_token="[PAD]"),
        widen(folder, 1),
    ),
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("side", ["source", "tuned"])
@pytest.mark.parametrize("what", list(CHANGES))
def test_a_pair_may_differ_in_all_but_its_text_tokens(own, what, side, tmp_path):
    file = tmp_path / "alignment.safetensors"
    vocabridge.alignment.align(own / "source", own / "target", method="retokenize", cache=False).save(file)
    CHANGES[what](own / side)
    models = {name: load_model(str(own / name), dtype=torch.float32) for name in ("source", "tuned", "target")}
    pair = ExpertPair(models["tuned"], models["source"])
    shared = min(models["source"].vocabulary.size, models["tuned"].vocabulary.size)
    assert pair.vocabulary.size == shared
    assert {k: v for k, v in pair.vocabulary.roles.items() if k != "pad"} == {
        k: v for k, v in models["tuned"].vocabulary.roles.items() if k != "pad"
    }
    ids = torch.tensor([models["tuned"].vocabulary.encode("Question: 12 foxes?").ids.tolist()])
    logits = {name: model(input_ids=ids).logits for name, model in pair.models.items()}
    scores = pair.scores(logits)
    expected = logits["tuned"][..., :shared] - logits["untuned"][..., :shared]
    assert torch.equal(scores.delta, expected)

    done = CliRunner().invoke(
        app,
        f"bridge -o {tmp_path}/bridge --base {own}/target --value {own}/tuned --untuned {own}/source "
        f"--alignment {file}".split(),
    )
    assert done.exit_code == 0, done.output
    bridge = vocabridge.load(tmp_path / "bridge")
    assert bridge.steering.alignment.source.size == shared
    text = "".join(vocabridge.stream(bridge, "Question: 12 foxes?", max_new_tokens=4))
    assert isinstance(text, str)


@pytest.mark.parametrize("what", ["chat template", "pad token", "eos token"])
def test_an_alignment_fits_after_a_pad_or_end_token_or_chat_template_changes_and_a_saved_bridge_names_the_change(
    own, what, tmp_path
):
    file = tmp_path / "alignment.safetensors"
    models = {name: load_model(str(own / name), dtype=torch.float32) for name in ("source", "tuned", "target")}
    source = ExpertPair(models["tuned"], models["source"])
    vocabridge.alignment.align(source.vocabulary, models["target"].vocabulary, method="retokenize").save(file)
    alignment = vocabridge.alignment.Alignment.load(file)
    vocabridge.save_bridge(vocabridge.Bridge.over(models["target"], source, alignment), tmp_path / "bridge")
    for name in ("source", "tuned", "target"):
        CHANGES[what](own / name)
    with pytest.raises(VocabridgeError, match=r"has another tokenizer now \(tokenizer_config.json\)"):
        vocabridge.load(tmp_path / "bridge")
    models = {name: load_model(str(own / name), dtype=torch.float32) for name in ("source", "tuned", "target")}
    source = ExpertPair(models["tuned"], models["source"])
    bridge = vocabridge.Bridge.over(models["target"], source, vocabridge.alignment.Alignment.load(file))
    counts, end = bridge.steering.alignment.counts, bridge.vocabulary.roles["eos"]
    assert counts[[end]].indices.tolist() == [source.vocabulary.roles["eos"]]
    vocabridge.save_bridge(bridge, tmp_path / "bridge")
    assert vocabridge.load(tmp_path / "bridge").steering.alignment.source == bridge.steering.alignment.source


def test_one_line_of_the_log_names_the_model_whose_roles_a_pair_uses(own, caplog):
    CHANGES["eos token"](own / "tuned")
    models = [load_model(str(own / name)) for name in ("tuned", "source")]
    with caplog.at_level(logging.INFO, "vocabridge"):
        ExpertPair(*models)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "vocabridge"]
    assert line == f"{models[0].name} and {models[1].name} differ in the eos token; that of {models[0].name} is used."


def test_a_warning_names_a_token_that_a_pair_leaves_out_and_the_donor_alone_keeps_it(own, caplog):
    add_controls(own / "tuned", *(f"<|{i}|>" for i in range(17)))
    settings(own / "tuned", eos_token="<|16|>")
    widen(own / "tuned", 8)
    tuned, untuned = (load_model(str(own / name)) for name in ("tuned", "source"))
    end = tuned.vocabulary.roles["eos"]
    assert end >= untuned.vocabulary.size
    with caplog.at_level(logging.WARNING, "vocabridge"):
        pair = ExpertPair(tuned, untuned)
    assert f"has no eos token, so that of {tuned.name} is left out" in caplog.text
    assert "eos" not in pair.vocabulary.roles
    assert evaluated_donor("donor", pair).vocabulary.roles["eos"] == end


def test_a_pair_that_differs_in_one_merge_or_one_tokens_bytes_is_refused(own):
    path = own / "tuned" / "tokenizer.json"
    spec = json.loads(path.read_text())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    last = max(vocab, key=vocab.__getitem__)
    untuned = load_model(str(own / "source"))
    for changed in (
        {"merges": [*merges[:-2], merges[-1], merges[-2]]},
        {"merges": merges[:-1]},
        {"merges": merges[:-1], "vocab": {(t if t != last else "é" + t): i for t, i in vocab.items()}},
    ):
        path.write_text(json.dumps(spec | {"model": spec["model"] | changed}))
        with pytest.raises(VocabridgeError, match="have different tokenizers"):
            ExpertPair(load_model(str(own / "tuned")), untuned)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_plain_adapter_folder_is_the_tuned_half_of_a_pair(own, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer

    model = LlamaForCausalLM.from_pretrained(own / "source")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(own / "source")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    pair = ExpertPair(load_model(str(tmp_path / "adapter")), load_model(str(own / "source")))
    assert pair.vocabulary.size == LlamaConfig.from_pretrained(own / "source").vocab_size


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_a_real_tokenizer_has_the_same_fingerprint_without_a_template_with_another_end_token_and_more_rows(name):
    vocabulary = resolve_vocabulary(name)
    begin = vocabulary.roles["bos"]
    other = Vocabulary.from_tokenizer(
        vocabulary.tokenizer, size=vocabulary.size + 64, roles={"bos": begin, "eos": begin, "pad": begin}
    )
    assert other.fingerprint == vocabulary.fingerprint
    spec = json.loads(vocabulary.tokenizer.to_str())
    spec["model"]["merges"].pop()
    assert Vocabulary.from_tokenizer(Tokenizer.from_str(json.dumps(spec))).fingerprint != vocabulary.fingerprint


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_a_real_models_prompts_are_those_of_transformers(name):
    vocabulary, tokenizer = resolve_vocabulary(name), AutoTokenizer.from_pretrained(model_folder(name))
    for text in ("Question: How much is 3 times 12?\nAnswer:", " a", "日本", "  two\n\n", "<|im_start|>user"):
        assert prompt_ids(vocabulary, text) == tokenizer(text).input_ids


@pytest.mark.real
def test_the_shipped_value_network_is_for_the_tokenizer_of_its_source_model():
    path = value_network_folder() / "value_network.json"
    assert json.loads(path.read_text())["fingerprint"] == resolve_vocabulary("smollm2-135m-instruct").fingerprint
