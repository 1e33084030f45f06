"""Tests of training with tiny models."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from pathlib import Path

import pytest
import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.models.value_network import load_value_network, new_value_network
from vocabridge.models.value_network_files import CONFIG, WEIGHTS
from vocabridge.options import Initialization, Regularizer, Scheme
from vocabridge.training import train as training
from vocabridge.training.callbacks import LOG, PLOT
from vocabridge.training.collator import collate
from vocabridge.training.config import TrainingConfig
from vocabridge.training.dataset import load_training_texts
from vocabridge.training.objective import TrainingObjective
from vocabridge.training.run_folder import CHECKPOINTS
from vocabridge.training.train import train_value_network


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["source", "target"])
def test_the_loss_falls_and_the_result_agrees_with_the_folder(model_folders, config, data, tmp_path, family, method):
    config = dataclasses.replace(config, source=str(getattr(model_folders, family)), method=method)
    calls = []
    result = train_value_network(
        config, data, tmp_path / "values", validation=data, progress=lambda *args: calls.append(args)
    )
    assert (result.examples, result.steps, len(result.losses)) == (5, 12, 4)
    assert result.losses[-1] < 0.8 * result.losses[0]
    assert result.norms[-1] > 0
    assert 0 < result.changed[-1] <= 1
    assert result.validation_after < result.validation_before
    assert [args[:2] for args in calls] == [(n, 12) for n in range(1, 13)]

    network = load_value_network(tmp_path / "values")
    texts = load_training_texts(data, network.vocabulary, max_length=100)
    with torch.no_grad():
        sums = TrainingObjective(network, Regularizer.L1)(**collate(texts))
    bits = float(sums["nats"] / sums["tokens"]) / math.log(2)
    assert bits == pytest.approx(result.validation_after, rel=0.03)


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "change",
    [
        {"scheme": Scheme.CASCADE_PLUS},
        {"scheme": Scheme.CASCADE, "method": "full"},
        {"layers": 1, "packing": True},
        {"initialization": Initialization.RANDOM, "method": "full"},
        {"gradient_checkpointing": True},
        {"dtype": "float32"},
    ],
)
def test_every_kind_of_value_network_learns_and_loads(config, data, tmp_path, change):
    result = train_value_network(dataclasses.replace(config, **change), data, tmp_path / "values")
    assert result.losses[-1] < result.losses[0]
    assert load_value_network(tmp_path / "values").config.scheme is change.get("scheme", Scheme.RESIDUAL)


def test_training_is_deterministic_and_depends_on_the_seed(config, data, tmp_path):
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number + 100)  # the state of the generator before training does not matter
        train_value_network(dataclasses.replace(config, seed=seed), data, tmp_path / str(number))
        weights.append((tmp_path / str(number) / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.quick(2)
@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"gradient_accumulation": 2}])
def test_settings_that_save_memory_do_not_change_the_result(config, data, tmp_path, change):
    config = dataclasses.replace(config, dtype="float32")
    plain = train_value_network(config, data, tmp_path / "plain")
    saving = train_value_network(dataclasses.replace(config, **change), data, tmp_path / "saving")
    assert saving.losses == pytest.approx(plain.losses, rel=1e-4)
    assert saving.norms == pytest.approx(plain.norms, rel=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_base_does_not_change_and_gets_no_gradients(config, data, tmp_path, monkeypatch, method):
    networks = []

    def spy(*args, **kwargs):
        network = new_value_network(*args, **kwargs)
        networks.append((network, {name: t.clone() for name, t in network.models["untuned"].state_dict().items()}))
        return network

    monkeypatch.setattr(training, "new_value_network", spy)
    train_value_network(dataclasses.replace(config, method=method, epochs=1), data, tmp_path / "values")
    (network, before), *_ = networks
    after = network.models["untuned"].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and not p.requires_grad for p in network.models["untuned"].parameters())
    assert set(map(id, network.source_model.parameters())).isdisjoint(map(id, network.value.parameters()))


def test_the_regularizer_makes_the_change_smaller(config, data, tmp_path):
    free = train_value_network(dataclasses.replace(config, regularizer_weight=0.0), data, tmp_path / "free")
    regularized = train_value_network(
        dataclasses.replace(config, regularizer_weight=20.0), data, tmp_path / "regularized"
    )
    assert regularized.norms[-1] < 0.8 * free.norms[-1]


def test_a_share_of_the_data_can_be_held_out(config, data, tmp_path):
    result = train_value_network(config, data, tmp_path / "values", validation=0.4)
    assert 0 < result.examples < 5
    assert result.validation_before is not None


def test_the_record_holds_the_provenance_of_the_value_network(config, data, tmp_path):
    import hashlib
    import importlib.metadata

    result = train_value_network(config, data, tmp_path / "values", validation=data)
    written = json.loads((tmp_path / "values" / CONFIG).read_text())
    record = written["training"]
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert record["config"] == dataclasses.asdict(config) | {"other_bases": []}
    assert record["data"] == {"name": "data.jsonl", "sha256": digest} == record["validation"]
    assert record["source"]["fingerprint"] == written["fingerprint"]
    assert len(record["source"]["digest"]) == 64
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(record["versions"]) == {"vocabridge", "torch", "transformers", "peft", "accelerate"}
    assert Path(sys.argv[0]).name in record["command"]
    assert record["losses"] == result.losses

    steps = [point for point in record["curves"] if "loss" in point]
    assert [point["step"] for point in steps] == list(range(1, 13))
    assert all(
        point["loss"] == pytest.approx(point["nats"] + config.regularizer_weight * point["norm"], rel=1e-3)
        for point in steps
    )
    assert max(point["learning_rate"] for point in steps) == config.learning_rate
    assert [point["step"] for point in record["curves"] if "validation" in point] == [0, 3, 6, 9, 12]
    lines = (tmp_path / "values" / LOG).read_text().splitlines()
    assert list(map(json.loads, lines)) == record["curves"]

    card = (tmp_path / "values" / "README.md").read_text()
    assert f"base_model: {config.source}" in card
    assert f"{result.validation_after:.3f}" in card
    assert digest[:12] in card
    assert (tmp_path / "values" / PLOT).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_one_message_tells_that_the_plot_is_left_out(tmp_path, monkeypatch, caplog):
    from vocabridge.training.callbacks import plot_curves

    def missing(*_):
        raise VocabridgeError("matplotlib")

    monkeypatch.setattr("vocabridge.training.callbacks.new_figure", missing)
    with caplog.at_level(logging.INFO, "vocabridge.training.callbacks"):
        plot_curves([{"step": 1, "nats": 1.0}], tmp_path / PLOT)
    (message,) = caplog.messages
    assert message.startswith("curves.png is left out")
    assert not (tmp_path / PLOT).exists()


def test_early_stopping_keeps_the_best_weights(config, data, tmp_path):
    """The validation text is none of the training texts, and the learning rate is too high."""
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "Question:", "response": " The lazy dog sleeps."}) + "\n")
    config = dataclasses.replace(config, epochs=30, learning_rate=3e-2, patience=2, regularizer_weight=0.0)
    result = train_value_network(config, data, tmp_path / "values", validation=other)
    record = json.loads((tmp_path / "values" / CONFIG).read_text())["training"]
    losses = [point["validation"] for point in record["curves"] if "validation" in point][1:]
    best = losses.index(min(losses))
    assert result.steps < 30 * 3
    assert len(losses) == best + 1 + config.patience
    assert result.validation_after == pytest.approx(min(losses) / math.log(2))

    network = load_value_network(tmp_path / "values")
    texts = load_training_texts(other, network.vocabulary, max_length=100)
    with torch.no_grad():
        sums = TrainingObjective(network, Regularizer.L1)(**collate(texts))
    assert float(sums["nats"] / sums["tokens"]) == pytest.approx(min(losses), rel=0.05)


def test_patience_without_validation_is_an_error(config, data, tmp_path):
    with pytest.raises(VocabridgeError, match="patience needs texts to validate on"):
        train_value_network(dataclasses.replace(config, patience=1), data, tmp_path / "values")


def test_a_batch_that_cannot_be_shared_is_an_error(config, data, tmp_path):
    with pytest.raises(VocabridgeError, match="batch of 2 cannot be shared by 1 processes in 3 parts each"):
        train_value_network(dataclasses.replace(config, gradient_accumulation=3), data, tmp_path / "values")


def test_a_folder_that_is_not_empty_is_an_error_before_anything_is_loaded(config, data, tmp_path):
    (tmp_path / "values").mkdir()
    train_value_network(dataclasses.replace(config, epochs=1), data, tmp_path / "values")
    kept = (tmp_path / "values" / WEIGHTS).read_bytes()
    with pytest.raises(VocabridgeError, match="is not empty"):
        train_value_network(TrainingConfig("nowhere"), data, tmp_path / "values")
    with pytest.raises(VocabridgeError, match="is not empty"):
        train_value_network(TrainingConfig("nowhere"), data, data)
    assert (tmp_path / "values" / WEIGHTS).read_bytes() == kept


def test_a_text_that_is_too_long_is_an_error(config, data, tmp_path):
    network = new_value_network(config.source, method="lora", rank=1)
    longest = max(len(text.ids) for text in load_training_texts(data, network.vocabulary, max_length=100))
    short = dataclasses.replace(config, max_length=longest - 1)
    with pytest.raises(VocabridgeError, match=rf"has {longest} tokens, more than .* {longest - 1};"):
        train_value_network(short, data, tmp_path / "values")
    assert not (tmp_path / "values").exists()


def test_a_loss_that_is_not_finite_is_an_error_and_saves_nothing(config, data, tmp_path, monkeypatch):
    forward = TrainingObjective.forward
    monkeypatch.setattr(
        TrainingObjective,
        "forward",
        lambda *args, **named: {k: v * math.nan for k, v in forward(*args, **named).items()},
    )
    with pytest.raises(VocabridgeError, match="the loss became nan in step 1; lower the learning rate"):
        train_value_network(config, data, tmp_path / "values")
    assert not list((tmp_path / "values" / CHECKPOINTS).iterdir())
    assert not (tmp_path / "values" / WEIGHTS).exists()
