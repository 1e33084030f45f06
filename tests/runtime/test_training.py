"""Training on a tiny model: it learns, the same each time, from responses only, and leaves the base alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from vocabridge import training
from vocabridge.alignment import VocabridgeError
from vocabridge.examples import TokenizedExample, load_examples, tokenize
from vocabridge.training import Recipe, train_value_network
from vocabridge.value_network import CONFIG, WEIGHTS, load_value_network, new_value_network


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [
        {"prompt": f"Question: {n} foxes?\nAnswer:", "response": f" {n}*2={2 * n} foxes.", "id": f"item {n}"}
        for n in (3, 12, 24, 345, 7)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def recipe(model_folders):
    return Recipe(str(model_folders.source), epochs=4, batch_size=2, learning_rate=1e-2, rank=2)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["source", "target"])
def test_the_loss_falls_and_the_result_is_what_the_folder_holds(model_folders, recipe, data, tmp_path, family, method):
    recipe = dataclasses.replace(recipe, base=str(getattr(model_folders, family)), method=method)
    told = []
    result = train_value_network(
        recipe, data, tmp_path / "values", validation=data, progress=lambda *args: told.append(args)
    )
    assert (result.examples, result.steps, len(result.losses)) == (5, 12, 4)
    assert result.losses[-1] < 0.8 * result.losses[0]
    assert result.norms[-1] > 0
    assert result.validation_after < result.validation_before
    assert [args[:2] for args in told] == [(n, 12) for n in range(1, 13)]
    record = json.loads((tmp_path / "values" / CONFIG).read_text())["training"]
    assert record["recipe"] == dataclasses.asdict(recipe)
    assert record["losses"] == result.losses

    network = load_value_network(tmp_path / "values")
    held_out = training._tokenized(load_examples(data), network, recipe)
    assert training._bits_per_token(network, held_out, 2) == pytest.approx(result.validation_after, rel=0.03)


def test_training_is_the_same_each_time_and_other_with_another_seed(recipe, data, tmp_path):
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number + 100)  # what happened before does not matter
        train_value_network(dataclasses.replace(recipe, seed=seed), data, tmp_path / str(number))
        weights.append((tmp_path / str(number) / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_base_does_not_change(recipe, data, tmp_path, monkeypatch, method):
    networks = []

    def spy(*args, **kwargs):
        network = new_value_network(*args, **kwargs)
        networks.append((network, {name: t.clone() for name, t in network.models["base"].state_dict().items()}))
        return network

    monkeypatch.setattr(training, "new_value_network", spy)
    train_value_network(dataclasses.replace(recipe, method=method, epochs=1), data, tmp_path / "values")
    (network, before), *_ = networks
    after = network.models["base"].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in network.models["base"].parameters())


def test_the_sums_are_over_response_tokens_whatever_the_padding(parts):
    network = parts.residual(0.2)
    ids = network.vocabulary.encode("The quick brown fox jumps over the lazy dog").ids.tolist()
    batch = [TokenizedExample(ids, first=6), TokenizedExample(ids[:9], first=4)]
    with torch.no_grad():
        nats, norm, count = training._sums(network, batch)
        expected_nats = expected_norm = 0.0
        for example in batch:
            row = torch.tensor([example.ids])
            base = network.models["base"](row).logits[0]
            delta = network.models["value"](row).logits[0]
            log_p = (base + delta).log_softmax(-1)
            for i in range(example.first, len(example.ids)):
                expected_nats -= log_p[i - 1, example.ids[i]].item()
                expected_norm += delta[i - 1].abs().mean().item()
    assert count == len(ids) - 6 + 9 - 4
    assert nats.item() == pytest.approx(expected_nats, rel=1e-4)
    assert norm.item() == pytest.approx(expected_norm, rel=1e-4)


def test_the_norm_term_makes_the_change_smaller(recipe, data, tmp_path):
    free = train_value_network(dataclasses.replace(recipe, norm_weight=0.0), data, tmp_path / "free")
    held = train_value_network(dataclasses.replace(recipe, norm_weight=20.0), data, tmp_path / "held")
    assert held.norms[-1] < 0.8 * free.norms[-1]


def test_a_response_ends_with_the_end_token(parts, recipe, data):
    network = parts.residual()
    tokens = training._tokenized(load_examples(data), network, recipe)
    assert all(example.ids[-1] == network.vocabulary.roles["end"] for example in tokens)
    assert [e.ids[:-1] for e in tokens] == [tokenize(e, network.vocabulary).ids for e in load_examples(data)]


def test_every_example_is_in_one_batch_of_each_epoch():
    examples = [TokenizedExample([0] * (n % 7 + 2), 1) for n in range(70)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        batches = list(training._batches(examples, 4, generator))
        assert sorted(id(e) for batch in batches for e in batch) == sorted(map(id, examples))
        assert max(map(len, batches)) == 4


def test_the_learning_rate_rises_and_falls_to_0():
    rates = [training._cosine(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 3)
    assert max(rates) == rates[2] == 1
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert training._cosine(0, 1) == 1


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_loaded(recipe, data, tmp_path):
    (tmp_path / "values").mkdir()
    train_value_network(dataclasses.replace(recipe, epochs=1), data, tmp_path / "values")
    kept = (tmp_path / "values" / WEIGHTS).read_bytes()
    with pytest.raises(VocabridgeError, match="is not empty"):
        train_value_network(Recipe("nowhere"), data, tmp_path / "values")
    with pytest.raises(VocabridgeError, match="is not empty"):
        train_value_network(Recipe("nowhere"), data, data)
    assert (tmp_path / "values" / WEIGHTS).read_bytes() == kept


def test_an_example_that_is_too_long_is_named(recipe, data, tmp_path):
    network = new_value_network(recipe.base, method="lora", rank=1)
    longest = max(len(example.ids) for example in training._tokenized(load_examples(data), network, recipe))
    short = dataclasses.replace(recipe, max_length=longest - 1)
    with pytest.raises(VocabridgeError, match=rf"example item 345 has {longest} tokens, more than .* {longest - 1};"):
        train_value_network(short, data, tmp_path / "values")
    assert not (tmp_path / "values").exists()


def test_a_loss_that_is_not_finite_is_an_error_and_writes_nothing(recipe, data, tmp_path, monkeypatch):
    sums = training._sums
    monkeypatch.setattr(training, "_sums", lambda *args: (sums(*args)[0] * float("nan"), *sums(*args)[1:]))
    with pytest.raises(VocabridgeError, match="the loss became nan"):
        train_value_network(recipe, data, tmp_path / "values")
    assert not (tmp_path / "values").exists()
