"""What a step computes, against loops over single texts; and the order in which texts come."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocabridge.options import Regularizer
from vocabridge.training.collator import LengthGrouped, collate
from vocabridge.training.dataset import TrainingText, pack
from vocabridge.training.objective import TrainingObjective


@pytest.fixture
def texts(parts):
    ids = parts.small.vocabulary.encode("The quick brown fox jumps over the lazy dog").ids.tolist()
    return [
        TrainingText(ids, [i >= 6 for i in range(len(ids))]),
        TrainingText(ids[:9], [i in (4, 5, 8) for i in range(9)]),
    ]


def one_by_one(network, texts):
    """(base logits, delta, token) in front of every learned token, each text by itself."""
    found = []
    for text in texts:
        row = torch.tensor([text.ids])
        base, delta = network.models["untuned"](row).logits[0], network.models["value"](row).logits[0]
        found += [(base[i - 1], delta[i - 1], text.ids[i]) for i in range(len(text.ids)) if text.learns[i]]
    return found


def test_the_sums_are_over_learned_tokens_whatever_the_padding(parts, texts):
    network = parts.residual(0.2)
    sums = TrainingObjective(network, Regularizer.L1)(**collate(texts))
    rows = one_by_one(network, texts)
    nats = sum(-(base + delta).log_softmax(-1)[token] for base, delta, token in rows)
    assert sums["tokens"] == len(rows)
    assert sums["nats"].item() == pytest.approx(nats.item(), rel=1e-4)
    assert sums["norm"].item() == pytest.approx(sum(delta.abs().mean() for _, delta, _ in rows).item(), rel=1e-4)
    assert sums["changed"] == sum((base + delta).argmax() != base.argmax() for base, delta, _ in rows)
    term = sum(sum(abs(x) for x in delta) / len(delta) for _, delta, _ in rows)
    assert sums["regularizer"].item() == pytest.approx(term.item(), rel=1e-3)


def test_the_released_regulariser_is_over_prompt_and_padding_too(parts, texts):
    network = parts.residual(0.2)
    batch = collate(texts)
    sums = TrainingObjective(network, Regularizer.RELEASED)(**batch)
    everywhere = network.models["value"](batch["input_ids"]).logits
    assert sums["regularizer"].item() == pytest.approx(everywhere.abs().mean().item(), rel=1e-4)
    assert sums["tokens"] == len(one_by_one(network, texts))


def test_gradients_are_those_of_the_plain_formula(parts, texts):
    network = parts.residual(0.2)
    parameters = list(network.value.parameters())
    sums = TrainingObjective(network, Regularizer.L1)(**collate(texts))
    found = torch.autograd.grad((sums["nats"] + 0.3 * sums["regularizer"]) / sums["tokens"], parameters)
    rows = one_by_one(network, texts)
    plain = 0.0
    for base, delta, token in rows:
        steered = (base.detach() + delta).log_softmax(-1)
        plain = plain + (-steered[token] + 0.3 * delta.abs().mean()) / len(rows)
    for one, other in zip(found, torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_texts_that_are_packed_are_read_as_if_alone(parts, texts):
    network = parts.residual(0.2)
    objective = TrainingObjective(network, Regularizer.L1)
    (together,) = pack(texts, 100)
    alone, packed = objective(**collate(texts)), objective(**collate([together, texts[1]]))
    beside = objective(**collate(texts[1:]))
    for name in ("nats", "regularizer", "tokens"):
        assert packed[name].item() == pytest.approx((alone[name] + beside[name]).item(), rel=1e-4)


@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=80),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
)
def test_every_text_is_in_one_batch_of_each_epoch(lengths, batch, seed, epoch):
    sampler = LengthGrouped(lengths, batch, seed, lambda: epoch)
    order = list(sampler)
    assert order == list(sampler)
    assert len(order) == len(sampler)
    assert len(order) % batch == 0
    assert sorted(i for i in order if i >= 0) == list(range(len(lengths)))


def test_batches_are_of_like_length_and_come_in_another_order_each_epoch():
    lengths = [n % 40 + 2 for n in range(160)]
    epoch = 0
    sampler = LengthGrouped(lengths, 8, 0, lambda: epoch)
    first = list(sampler)
    batches = [[lengths[i] for i in first[start : start + 8]] for start in range(0, 160, 8)]
    assert sum(8 * max(batch) - sum(batch) for batch in batches) < 0.1 * sum(lengths)
    epoch = 1
    assert list(sampler) != first
