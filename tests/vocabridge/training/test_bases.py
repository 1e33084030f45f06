"""Several bases for one value network, and bases of another tokenizer: against plain sums over common boundaries."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM

from vocabridge.alignment import VocabridgeError, align
from vocabridge.data import corpus_files
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_network import load_value_network
from vocabridge.models.value_network_files import CONFIG, WEIGHTS
from vocabridge.options import Regularizer, Scheme
from vocabridge.training.bases import TrainingBase, beside, load_others
from vocabridge.training.collator import collate
from vocabridge.training.config import TrainingConfig
from vocabridge.training.dataset import TrainingText, load_training_texts
from vocabridge.training.objective import TrainingObjective
from vocabridge.training.run_folder import CHECKPOINTS
from vocabridge.training.train import train_value_network

SENTENCES = ["The quick brown fox jumps", "def count(words):\n    return 12", "naïve café 東京  two   spaces"]


def in_both(source, target, texts):
    """Texts whose second half is learned, in the tokens of both."""

    def tokens(vocabulary):
        encoded = [vocabulary.encode(text).ids.tolist() for text in texts]
        return [TrainingText(ids, [i >= max(1, len(ids) // 2) for i in range(len(ids))]) for ids in encoded]

    texts, others = tokens(source), tokens(target)
    sides = beside(texts, source, others, target)
    return [dataclasses.replace(text, sides=(side,)) for text, side in zip(texts, sides, strict=True)]


@given(text=st.text(min_size=1, max_size=40))
def test_where_the_value_network_is_heard_both_have_read_the_same_bytes(vocabularies, text):
    source, target = vocabularies["byte_level"], vocabularies["sentencepiece"]

    def read(ids, vocabulary):
        return b"".join(vocabulary.token_bytes[i] or b"" for i in ids)

    ids, theirs = source.encode(text).ids.tolist(), target.encode(text).ids.tolist()
    learned = TrainingText(theirs, [True] * len(theirs))
    (side,) = beside([TrainingText(ids, [True] * len(ids))], source, [learned], target)
    for j, behind in enumerate(side.behind):
        if behind >= 0:
            assert read(ids[: behind + 1], source) == read(theirs[: j + 1], target)
        else:
            assert read(theirs[: j + 1], target) not in [read(ids[: i + 1], source) for i in range(len(ids))]
    assert side.learns == [j > 0 and side.behind[j - 1] >= 0 for j in range(len(theirs))]


@pytest.mark.quick(1)
@pytest.mark.parametrize("scheme", Scheme)
def test_across_tokenizers_loss_and_gradient_are_those_of_the_dense_matrix(parts, scheme):
    network = parts.residual(0.2)
    network.value.scheme = scheme
    source, target = network.vocabulary, parts.base.vocabulary
    texts = in_both(source, target, SENTENCES)
    objective = TrainingObjective(network, Regularizer.L1, [TrainingBase.of(parts.base, source)])
    parameters = [p for p in network.value.parameters() if p.requires_grad]
    sums = objective(**collate(texts), base=1)
    found = torch.autograd.grad(sums["nats"] + 0.3 * sums["regularizer"], parameters, allow_unused=True)

    w = torch.from_numpy(align(source, target, corpus=corpus_files()).row_weights.toarray())
    covered = w.sum(-1) > 0
    nats, term, tokens = 0.0, 0.0, 0
    for text in texts:
        (side,) = text.sides
        z_base = parts.base.model(torch.tensor([side.ids])).logits[0].detach()
        ids = torch.tensor([text.ids])
        taken = network.source_model(ids).logits.detach() if scheme.takes_base else None
        z_delta = network.value(ids, taken_logits=taken).logits[0]
        for j, learns in enumerate(side.learns):
            if learns:
                change, p = w @ z_delta[side.behind[j - 1]], z_base[j - 1].softmax(-1)
                own = (p * covered).sum()
                k = ((p * covered * change.exp()).sum() / own).log() if not covered.all() else 0.0
                change = torch.where(covered, change - k, 0.0)
                nats = nats - (z_base[j - 1] + change).log_softmax(-1)[side.ids[j]]
                term, tokens = term + change.abs().mean(), tokens + 1
    assert sums["tokens"] == tokens > 10
    assert sums["nats"].item() == pytest.approx(nats.item(), rel=1e-4)
    plain = torch.autograd.grad(nats + 0.3 * term, parameters, allow_unused=True)
    for one, other in zip(found, plain, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("base", [0, 1])
def test_few_logits_at_a_time_make_the_same_loss_and_gradient(parts, monkeypatch, base):
    network = parts.residual(0.2)
    texts = in_both(network.vocabulary, parts.base.vocabulary, SENTENCES)
    objective = TrainingObjective(network, Regularizer.L1, [TrainingBase.of(parts.base, network.vocabulary)])
    parameters = [p for p in network.value.parameters() if p.requires_grad]
    found = []
    for at_once in (2**26, 3 * 704):
        monkeypatch.setattr("vocabridge.training.objective._AT_ONCE", at_once)
        sums = objective(**collate(texts), base=base)
        loss = sums["nats"] + sums["regularizer"]
        found.append((sums, torch.autograd.grad(loss, parameters, allow_unused=True)))
    (whole, gradients), (parted, others) = found
    for name in whole:
        torch.testing.assert_close(whole[name], parted[name])
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5) if one is not None else None


def test_a_base_that_caps_its_logits_is_heard_with_its_cap(vocabularies):
    vocabulary = vocabularies["byte_level"]
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(vocab_size=vocabulary.size, final_logit_softcapping=0.1, **size, **heads)
    capped = TrainingBase.of(LoadedModel("capped", "", Gemma2ForCausalLM(config).eval(), vocabulary), vocabulary)
    said, unembed = capped.outputs(torch.arange(5)[None], torch.arange(5)[None])
    assert unembed is None
    assert said.abs().max() <= 0.1


def test_a_model_of_the_callers_still_takes_gradients_after_it_was_a_training_base(loaded):
    model, vocabulary = copy.deepcopy(loaded["source"].model).requires_grad_(True), loaded["source"].vocabulary
    TrainingBase.of(LoadedModel("own", "", model, vocabulary), vocabulary)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def several(config, model_folders) -> TrainingConfig:
    return dataclasses.replace(
        config, other_bases=(str(model_folders.tuned), str(model_folders.target)), dtype="float32"
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "change",
    [{}, {"method": "full", "dtype": "bfloat16"}, {"method": "lora", "rank": 4}],
)
def test_a_value_network_learns_on_several_bases_and_leaves_them_alone(several, data, tmp_path, change):
    config = dataclasses.replace(several, epochs=6, **change)
    result = train_value_network(config, data, tmp_path / "values", validation=data)
    assert result.validation_after < 0.95 * result.validation_before
    training = json.loads((tmp_path / "values" / CONFIG).read_text())["training"]
    assert [one["name"] for one in training["other_bases"]] == list(config.other_bases)

    network = load_value_network(tmp_path / "values", dtype=torch.float32)
    texts = load_training_texts(data, network.vocabulary, max_length=100)
    (across,) = load_others(config.other_bases[1:], network.vocabulary, "cpu")
    theirs = load_training_texts(data, across.vocabulary, max_length=100)
    sides = beside(texts, network.vocabulary, theirs, across.vocabulary)
    batch = collate([dataclasses.replace(t, sides=(side,)) for t, side in zip(texts, sides, strict=True)])
    objective = TrainingObjective(network, Regularizer.L1, [across])
    with torch.no_grad():
        taught = objective(**batch, base=1)["nats"]
        network.value.projection.weight.zero_()
        untaught = objective(**batch, base=1)["nats"]
    assert taught < 0.95 * untaught
    assert not any(p.requires_grad for p in across.model.parameters())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in network.value.parameters()}


def test_a_run_on_several_bases_that_is_taken_up_gives_the_same_numbers(several, data, tmp_path):
    config = several
    whole = train_value_network(config, data, tmp_path / "whole")

    def stop(done: int, *_: object) -> None:
        if done == 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_value_network(config, data, tmp_path / "parts", progress=stop)
    other = dataclasses.replace(config, other_bases=config.other_bases[:1])
    with pytest.raises(VocabridgeError, match="another other bases"):
        train_value_network(other, data, tmp_path / "parts")
    assert (tmp_path / "parts" / CHECKPOINTS).is_dir()
    taken_up = train_value_network(config, data, tmp_path / "parts")
    assert taken_up.resumed > 0
    assert taken_up.losses == whole.losses
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_what_cannot_be_trained_across_tokenizers_is_refused(several, data, tmp_path, parts):
    with pytest.raises(VocabridgeError, match="leave out packing"):
        train_value_network(dataclasses.replace(several, packing=True), data, tmp_path / "values")
    source, target = parts.small.vocabulary, parts.base.vocabulary
    texts = [
        TrainingText(vocabulary.encode(text).ids.tolist(), [True])
        for vocabulary, text in ((source, "User: Hello"), (target, "<user> Hello"))
    ]
    with pytest.raises(VocabridgeError, match="is not the same for"):
        beside(texts[:1], source, texts[1:], target)
