"""Tests of the sums of a training step, with loops over single texts as the reference, and of the order of texts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocabridge.options import Regularizer
from vocabridge.training.collator import LengthGroupedSampler, collate
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
    """Return (base logits, delta, token) for every learned token, from a forward of each text by itself."""
    rows = []
    for text in texts:
        ids = torch.tensor([text.ids])
        base, delta = network.models["untuned"](ids).logits[0], network.models["value"](ids).logits[0]
        rows += [(base[i - 1], delta[i - 1], text.ids[i]) for i in range(len(text.ids)) if text.learned[i]]
    return rows


def test_the_sums_are_over_learned_tokens_and_independent_of_padding(parts, texts):
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


def test_the_released_regularizer_includes_prompt_and_padding(parts, texts):
    network = parts.residual(0.2)
    batch = collate(texts)
    sums = TrainingObjective(network, Regularizer.RELEASED)(**batch)
    all_logits = network.models["value"](batch["input_ids"]).logits
    assert sums["regularizer"].item() == pytest.approx(all_logits.abs().mean().item(), rel=1e-4)
    assert sums["tokens"] == len(one_by_one(network, texts))


def test_gradients_equal_those_of_the_plain_formula(parts, texts):
    network = parts.residual(0.2)
    parameters = list(network.value.parameters())
    sums = TrainingObjective(network, Regularizer.L1)(**collate(texts))
    gradients = torch.autograd.grad((sums["nats"] + 0.3 * sums["regularizer"]) / sums["tokens"], parameters)
    rows = one_by_one(network, texts)
    loss = 0.0
    for base, delta, token in rows:
        steered = (base.detach() + delta).log_softmax(-1)
        loss = loss + (-steered[token] + 0.3 * delta.abs().mean()) / len(rows)
    for gradient, expected in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_packed_texts_are_read_as_if_alone(parts, texts):
    network = parts.residual(0.2)
    objective = TrainingObjective(network, Regularizer.L1)
    (sequence,) = pack(texts, 100)
    alone, packed = objective(**collate(texts)), objective(**collate([sequence, texts[1]]))
    second = objective(**collate(texts[1:]))
    for name in ("nats", "regularizer", "tokens"):
        assert packed[name].item() == pytest.approx((alone[name] + second[name]).item(), rel=1e-4)


@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=80),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
)
def test_each_epoch_holds_every_text_once(lengths, batch, seed, epoch):
    sampler = LengthGroupedSampler(lengths, batch, seed, lambda: epoch)
    order = list(sampler)
    assert order == list(sampler)
    assert len(order) == len(sampler)
    assert len(order) % batch == 0
    assert sorted(i for i in order if i >= 0) == list(range(len(lengths)))


def test_batches_hold_texts_of_similar_length_in_a_different_order_each_epoch():
    lengths = [n % 40 + 2 for n in range(160)]
    epoch = 0
    sampler = LengthGroupedSampler(lengths, 8, 0, lambda: epoch)
    first = list(sampler)
    batches = [[lengths[i] for i in first[start : start + 8]] for start in range(0, 160, 8)]
    assert sum(8 * max(batch) - sum(batch) for batch in batches) < 0.1 * sum(lengths)
    epoch = 1
    assert list(sampler) != first
