"""Tests of training on several bases; the reference sums plainly over the common token boundaries."""

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
from vocabridge.training.bases import TrainingBase, align_texts, load_other_bases
from vocabridge.training.collator import collate
from vocabridge.training.config import TrainingConfig
from vocabridge.training.dataset import TrainingText, load_training_texts
from vocabridge.training.objective import TrainingObjective
from vocabridge.training.run_folder import CHECKPOINTS
from vocabridge.training.train import train_value_network

SENTENCES = ["The quick brown fox jumps", "def count(words):\n    return 12", "naïve café 東京  two   spaces"]


def in_both(source, target, texts):
    """Return training texts whose second half is learned, in the tokens of two vocabularies."""

    def tokens(vocabulary):
        encoded = [vocabulary.encode(text).ids.tolist() for text in texts]
        return [TrainingText(ids, [i >= max(1, len(ids) // 2) for i in range(len(ids))]) for ids in encoded]

    texts, others = tokens(source), tokens(target)
    by_text = align_texts(texts, source, others, target)
    return [dataclasses.replace(text, aligned=(other,)) for text, other in zip(texts, by_text, strict=True)]


@given(text=st.text(min_size=1, max_size=40))
def test_aligned_tokens_end_at_the_same_byte(vocabularies, text):
    source, target = vocabularies["byte_level"], vocabularies["sentencepiece"]

    def spell(ids, vocabulary):
        return b"".join(vocabulary.token_bytes[i] or b"" for i in ids)

    ids, target_ids = source.encode(text).ids.tolist(), target.encode(text).ids.tolist()
    target_text = TrainingText(target_ids, [True] * len(target_ids))
    (aligned,) = align_texts([TrainingText(ids, [True] * len(ids))], source, [target_text], target)
    for j, i in enumerate(aligned.source_indices):
        if i >= 0:
            assert spell(ids[: i + 1], source) == spell(target_ids[: j + 1], target)
        else:
            assert spell(target_ids[: j + 1], target) not in [spell(ids[: i + 1], source) for i in range(len(ids))]
    assert aligned.learned == [j > 0 and aligned.source_indices[j - 1] >= 0 for j in range(len(target_ids))]


@pytest.mark.quick(1)
@pytest.mark.parametrize("scheme", Scheme)
def test_across_tokenizers_loss_and_gradient_equal_those_of_the_dense_matrix(parts, scheme):
    network = parts.residual(0.2)
    network.value.scheme = scheme
    source, target = network.vocabulary, parts.base.vocabulary
    texts = in_both(source, target, SENTENCES)
    objective = TrainingObjective(network, Regularizer.L1, [TrainingBase.of(parts.base, source)])
    parameters = [p for p in network.value.parameters() if p.requires_grad]
    sums = objective(**collate(texts), base=1)
    gradients = torch.autograd.grad(sums["nats"] + 0.3 * sums["regularizer"], parameters, allow_unused=True)

    w = torch.from_numpy(align(source, target, corpus=corpus_files()).row_weights.toarray())
    covered = w.sum(-1) > 0
    nats, term, tokens = 0.0, 0.0, 0
    for text in texts:
        (aligned,) = text.aligned
        z_base = parts.base.model(torch.tensor([aligned.ids])).logits[0].detach()
        ids = torch.tensor([text.ids])
        source_logits = network.source_model(ids).logits.detach() if scheme.takes_base else None
        z_delta = network.value(ids, taken_logits=source_logits).logits[0]
        for j, learned in enumerate(aligned.learned):
            if learned:
                change, p = w @ z_delta[aligned.source_indices[j - 1]], z_base[j - 1].softmax(-1)
                covered_mass = (p * covered).sum()
                k = ((p * covered * change.exp()).sum() / covered_mass).log() if not covered.all() else 0.0
                change = torch.where(covered, change - k, 0.0)
                nats = nats - (z_base[j - 1] + change).log_softmax(-1)[aligned.ids[j]]
                term, tokens = term + change.abs().mean(), tokens + 1
    assert sums["tokens"] == tokens > 10
    assert sums["nats"].item() == pytest.approx(nats.item(), rel=1e-4)
    expected = torch.autograd.grad(nats + 0.3 * term, parameters, allow_unused=True)
    for gradient, plain in zip(gradients, expected, strict=True):
        assert (gradient is None) == (plain is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, plain, rtol=2e-3, atol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize("base", [0, 1])
def test_logits_in_chunks_give_the_same_loss_and_gradient(parts, monkeypatch, base):
    network = parts.residual(0.2)
    texts = in_both(network.vocabulary, parts.base.vocabulary, SENTENCES)
    objective = TrainingObjective(network, Regularizer.L1, [TrainingBase.of(parts.base, network.vocabulary)])
    parameters = [p for p in network.value.parameters() if p.requires_grad]
    results = []
    for max_logits in (2**26, 3 * 704):
        monkeypatch.setattr("vocabridge.training.objective._MAX_LOGITS", max_logits)
        sums = objective(**collate(texts), base=base)
        loss = sums["nats"] + sums["regularizer"]
        results.append((sums, torch.autograd.grad(loss, parameters, allow_unused=True)))
    (sums, gradients), (chunked_sums, chunked_gradients) = results
    for name in sums:
        torch.testing.assert_close(sums[name], chunked_sums[name])
    for gradient, chunked in zip(gradients, chunked_gradients, strict=True):
        torch.testing.assert_close(gradient, chunked, rtol=1e-3, atol=1e-5) if gradient is not None else None


def test_the_logits_of_a_base_that_caps_them_are_capped(vocabularies):
    vocabulary = vocabularies["byte_level"]
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(vocab_size=vocabulary.size, final_logit_softcapping=0.1, **size, **heads)
    capped = TrainingBase.of(LoadedModel("capped", "", Gemma2ForCausalLM(config).eval(), vocabulary), vocabulary)
    logits, unembed = capped.outputs(torch.arange(5)[None], torch.arange(5)[None])
    assert unembed is None
    assert logits.abs().max() <= 0.1


def test_a_model_of_the_caller_still_requires_gradients_after_it_was_a_training_base(loaded):
    model, vocabulary = copy.deepcopy(loaded["source"].model).requires_grad_(True), loaded["source"].vocabulary
    TrainingBase.of(LoadedModel("own", "", model, vocabulary), vocabulary)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def with_other_bases(config, model_folders) -> TrainingConfig:
    return dataclasses.replace(
        config, other_bases=(str(model_folders.tuned), str(model_folders.target)), dtype="float32"
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "change",
    [{}, {"method": "full", "dtype": "bfloat16"}, {"method": "lora", "rank": 4}],
)
def test_a_value_network_learns_on_several_bases_and_does_not_change_them(with_other_bases, data, tmp_path, change):
    config = dataclasses.replace(with_other_bases, epochs=6, **change)
    result = train_value_network(config, data, tmp_path / "values", validation=data)
    assert result.validation_after < 0.95 * result.validation_before
    training = json.loads((tmp_path / "values" / CONFIG).read_text())["training"]
    assert [base["name"] for base in training["other_bases"]] == list(config.other_bases)

    network = load_value_network(tmp_path / "values", dtype=torch.float32)
    texts = load_training_texts(data, network.vocabulary, max_length=100)
    (base,) = load_other_bases(config.other_bases[1:], network.vocabulary, "cpu")
    base_texts = load_training_texts(data, base.vocabulary, max_length=100)
    by_text = align_texts(texts, network.vocabulary, base_texts, base.vocabulary)
    batch = collate([dataclasses.replace(text, aligned=(other,)) for text, other in zip(texts, by_text, strict=True)])
    objective = TrainingObjective(network, Regularizer.L1, [base])
    with torch.no_grad():
        trained = objective(**batch, base=1)["nats"]
        network.value.projection.weight.zero_()
        untrained = objective(**batch, base=1)["nats"]
    assert trained < 0.95 * untrained
    assert not any(p.requires_grad for p in base.model.parameters())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in network.value.parameters()}


def test_a_run_on_several_bases_that_is_resumed_gives_the_same_numbers(with_other_bases, data, tmp_path):
    config = with_other_bases
    whole = train_value_network(config, data, tmp_path / "whole")

    def stop(done: int, *_: object) -> None:
        if done == 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_value_network(config, data, tmp_path / "parts", progress=stop)
    other = dataclasses.replace(config, other_bases=config.other_bases[:1])
    with pytest.raises(VocabridgeError, match="of a run with other bases"):
        train_value_network(other, data, tmp_path / "parts")
    assert (tmp_path / "parts" / CHECKPOINTS).is_dir()
    resumed = train_value_network(config, data, tmp_path / "parts")
    assert resumed.resumed > 0
    assert resumed.losses == whole.losses
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_packing_and_texts_that_differ_are_errors_across_tokenizers(with_other_bases, data, tmp_path, parts):
    with pytest.raises(VocabridgeError, match="leave out packing"):
        train_value_network(dataclasses.replace(with_other_bases, packing=True), data, tmp_path / "values")
    source, target = parts.small.vocabulary, parts.base.vocabulary
    texts = [
        TrainingText(vocabulary.encode(text).ids.tolist(), [True])
        for vocabulary, text in ((source, "User: Hello"), (target, "<user> Hello"))
    ]
    with pytest.raises(VocabridgeError, match="is not the same for"):
        align_texts(texts[:1], source, texts[1:], target)
