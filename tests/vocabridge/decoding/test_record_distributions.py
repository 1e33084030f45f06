"""What is written down is the model's softmax at every token of every window."""

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
    """Two files: the first of several windows; the second of one token."""
    (tmp_path / "a.txt").write_text(TEXT * 50, encoding="utf-8")
    (tmp_path / "b.txt").write_text("The", encoding="utf-8")
    return Corpus.open([tmp_path / "a.txt", tmp_path / "b.txt"])


@pytest.fixture(params=["source", "target"])
def model(request, loaded):
    """Llama without a bos token; Gemma-3 with one."""
    return loaded[request.param]


@torch.no_grad()
def test_it_is_the_softmax_of_the_model_at_every_token_of_every_window(model, corpus):
    said = predict(model, corpus, k=5)
    begin = [model.vocabulary.roles["bos"]] if model.vocabulary.add_bos_token else []
    texts = list(said.texts())
    assert [text for text, _ in texts] == list(windows(corpus))
    assert len(texts) > 3
    assert "The" in [text for text, _ in texts]  # one token: of the first without a bos token nothing is said
    for (text, positions), start in zip(texts, said.text_starts.tolist(), strict=False):
        encoding = model.vocabulary.encode(text)
        after = model.model(torch.tensor([begin + encoding.ids.tolist()])).logits[0].softmax(-1).numpy()
        # The distribution of which a token is the outcome is the one after the token before it.
        expected = after[:-1]
        offsets = encoding.starts if begin else encoding.starts[1:]
        assert (said.offsets[positions] - start).tolist() == offsets.tolist()
        np.testing.assert_allclose(said.probabilities[positions], -np.sort(-expected, axis=1)[:, :5], atol=1e-6)
        chosen = np.take_along_axis(expected, said.ids[positions].astype(np.int64), axis=1)
        np.testing.assert_allclose(said.probabilities[positions], chosen, atol=1e-6)


def test_it_says_whose_it_is_and_lasts(model, corpus, loaded, tmp_path):
    said = predict(model, corpus, k=3)
    said.save(tmp_path / "said.safetensors")
    opened = Distributions.open(tmp_path / "said.safetensors")
    assert opened.digest == said.digest
    assert opened.model == model.name
    opened.check(model.vocabulary)
    other = next(one for one in loaded.values() if one.vocabulary.fingerprint != model.vocabulary.fingerprint)
    with pytest.raises(VocabridgeError, match="over another vocabulary"):
        opened.check(other.vocabulary)


def test_more_tokens_than_there_are_is_all_of_them(model, corpus):
    said = predict(model, corpus, k=10**6)
    assert said.ids.shape[1] == model.vocabulary.size
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1, atol=1e-4)


def test_progress_is_told_in_bytes_up_to_the_end(model, corpus):
    told = []
    predict(model, corpus, k=1, progress=lambda done, total, what: told.append((done, total, what)))
    assert told[-1][:2] == (corpus.bytes, corpus.bytes)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert model.name in told[0][2]


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
def test_windows_make_up_the_text_and_end_after_a_line_where_they_can(tmp_path, text):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    found = list(windows(Corpus.open([tmp_path / "text.txt"])))
    assert "".join(found) == text
    assert all(0 < len(window) <= WINDOW for window in found)
    for window in found[:-1]:
        assert window.endswith("\n") or "\n" not in window[WINDOW // 2 :]
