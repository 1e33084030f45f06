"""Recorded predictions of a source model along a text, for the alignment method `expected`, which runs no model.

A recording holds the model's k most likely next tokens at every byte where one of its tokens starts.
"""

from __future__ import annotations

import torch

from vocabridge.alignment import Corpus, Distributions
from vocabridge.models.loading import LoadedModel
from vocabridge.utils.progress import Progress, no_progress
from vocabridge.utils.ranges import COUNT
from vocabridge.utils.windows import windows


@torch.no_grad()
def predict(model: LoadedModel, corpus: Corpus, *, k: int = 64, progress: Progress = no_progress) -> Distributions:
    """Run a model over a corpus and record its k most likely next tokens in front of every token.

    Args:
        model: The source model.
        corpus: The text, read in windows of some 400 tokens.
        k: Number of tokens to record at each position; at most the size of the vocabulary is recorded.
        progress: Called after each window, in bytes.

    Returns:
        The distributions. If the model expects no bos token, there is none for the first token of a window.

    Raises:
        VocabridgeError: `k` is out of range.
    """
    COUNT.check("k", k)
    vocabulary, bos_ids = model.vocabulary, model.vocabulary.bos_ids
    texts, offsets, ids, probabilities = [], [], [], []
    done = 0
    for text in windows(corpus):
        encoding = vocabulary.encode(text)
        tokens = torch.tensor([bos_ids + encoding.ids.tolist()], device=model.model.device)
        logits = model.model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        top = logits.topk(min(k, vocabulary.size))
        top_probabilities = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
        starts = encoding.starts[1 - len(bos_ids) :]  # without a bos token, nothing predicts the first token
        kept = starts >= 0
        texts.append(text)
        offsets.append(starts[kept])
        ids.append(top.indices.cpu().numpy()[kept])
        probabilities.append(top_probabilities.cpu().numpy()[kept])
        done += len(text.encode())
        progress(done, corpus.bytes, f"{model.name}: reading")
    return Distributions.of(texts, offsets, ids, probabilities, source=vocabulary, model=model.name)
