"""A corpus in windows that a model reads each from its start."""

from __future__ import annotations

from collections.abc import Iterator

from vocabridge.alignment import Corpus

WINDOW = 1500
"""Characters that are read together: some four hundred tokens of context."""


def windows(corpus: Corpus) -> Iterator[str]:
    """Cut a corpus into windows that end after a line where they can."""
    for chunk in corpus.chunks():
        while chunk:
            part = chunk[:WINDOW]
            end = part.rfind("\n") + 1 if len(chunk) > WINDOW else len(part)
            end = end if end > WINDOW // 2 else len(part)
            yield chunk[:end]
            chunk = chunk[end:]
