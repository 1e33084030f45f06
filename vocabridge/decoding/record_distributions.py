"""What a source model says along a text, written down for the builder `expected`, which runs no model.

At every byte where one of the model's own tokens starts, its k most likely next tokens after the text so far.
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
    """Read a text and keep the model's k most likely next tokens at every token.

    Args:
        model: The source model.
        corpus: The text, read in windows of some four hundred tokens.
        k: How many tokens to keep at a position, if there are so many.
        progress: Told how many bytes are done.

    Returns:
        The distributions; nothing for a window's first token where the model expects no bos token.
    """
    COUNT.check("k", k)
    vocabulary, begin = model.vocabulary, model.vocabulary.bos_ids
    texts, offsets, ids, probabilities = [], [], [], []
    done = 0
    for text in windows(corpus):
        encoding = vocabulary.encode(text)
        tokens = torch.tensor([begin + encoding.ids.tolist()], device=model.model.device)
        logits = model.model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        top = logits.topk(min(k, vocabulary.size))
        chances = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
        starts = encoding.starts[1 - len(begin) :]  # without a bos token nothing is said of the first
        kept = starts >= 0
        texts.append(text)
        offsets.append(starts[kept])
        ids.append(top.indices.cpu().numpy()[kept])
        probabilities.append(chances.cpu().numpy()[kept])
        done += len(text.encode())
        progress(done, corpus.bytes, f"{model.name}: reading")
    return Distributions.of(texts, offsets, ids, probabilities, source=vocabulary, model=model.name)
