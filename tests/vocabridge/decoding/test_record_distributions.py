"""Tests of recorded distributions, with the model's softmax as the reference, and of the windows of a corpus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vocabridge.alignment import Corpus, Distributions, VocabridgeError
from vocabridge.decoding.record_distributions import predict
from vocabridge.utils.windows import WINDOW, windows

TEXT = "The dogs watch 12 lazy foxes; cafés über 東京 🙂.\n    return {word: 1}\n"


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Open a corpus of two files, the first with several windows, the second with one token."""
    (tmp_path / "a.txt").write_text(TEXT * 50, encoding="utf-8")
    (tmp_path / "b.txt").write_text("The", encoding="utf-8")
    return Corpus.open([tmp_path / "a.txt", tmp_path / "b.txt"])


@pytest.fixture(params=["source", "target"])
def model(request, loaded):
    """Return a Llama model without a bos token, or a Gemma-3 model with one."""
    return loaded[request.param]


@torch.no_grad()
def test_a_recording_is_the_softmax_of_the_model_in_front_of_every_token_of_every_window(model, corpus):
    recorded = predict(model, corpus, k=5)
    bos_ids = [model.vocabulary.roles["bos"]] if model.vocabulary.add_bos_token else []
    texts = list(recorded.texts())
    assert [text for text, _ in texts] == list(windows(corpus))
    assert len(texts) > 3
    assert "The" in [
        text for text, _ in texts
    ]  # one token, in front of which there is no distribution without a bos token
    for (text, positions), start in zip(texts, recorded.text_starts.tolist(), strict=False):
        encoding = model.vocabulary.encode(text)
        after = model.model(torch.tensor([bos_ids + encoding.ids.tolist()])).logits[0].softmax(-1).numpy()
        # The distribution in front of a token is the prediction after the token before it.
        expected = after[:-1]
        offsets = encoding.starts if bos_ids else encoding.starts[1:]
        assert (recorded.offsets[positions] - start).tolist() == offsets.tolist()
        np.testing.assert_allclose(recorded.probabilities[positions], -np.sort(-expected, axis=1)[:, :5], atol=1e-6)
        chosen = np.take_along_axis(expected, recorded.ids[positions].astype(np.int64), axis=1)
        np.testing.assert_allclose(recorded.probabilities[positions], chosen, atol=1e-6)


def test_a_saved_recording_names_its_model_and_vocabulary(model, corpus, loaded, tmp_path):
    recorded = predict(model, corpus, k=3)
    recorded.save(tmp_path / "recorded.safetensors")
    opened = Distributions.open(tmp_path / "recorded.safetensors")
    assert opened.digest == recorded.digest
    assert opened.model == model.name
    opened.check(model.vocabulary)
    other = next(other for other in loaded.values() if other.vocabulary.fingerprint != model.vocabulary.fingerprint)
    with pytest.raises(VocabridgeError, match="over another vocabulary"):
        opened.check(other.vocabulary)


def test_a_k_beyond_the_vocabulary_records_all_tokens(model, corpus):
    recorded = predict(model, corpus, k=10**6)
    assert recorded.ids.shape[1] == model.vocabulary.size
    np.testing.assert_allclose(recorded.probabilities.sum(axis=1), 1, atol=1e-4)


def test_progress_is_reported_in_bytes_up_to_the_end(model, corpus):
    calls = []
    predict(model, corpus, k=1, progress=lambda done, total, what: calls.append((done, total, what)))
    assert calls[-1][:2] == (corpus.bytes, corpus.bytes)
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert model.name in calls[0][2]


@pytest.mark.parametrize(
    "text",
    [
        TEXT * 50,
        "x" * 5000,
        "ab " * 2000,
        "\n" * 4000,
        "日本" * 1200 + "\n" + "語" * 1000,
        "a" * 700 + "\n" + "b" * 2000,
    ],
)
def test_windows_make_up_the_text_and_end_at_line_ends_where_possible(tmp_path, text):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    parts = list(windows(Corpus.open([tmp_path / "text.txt"])))
    assert "".join(parts) == text
    assert all(0 < len(window) <= WINDOW for window in parts)
    for window in parts[:-1]:
        assert window.endswith("\n") or "\n" not in window[WINDOW // 2 :]
