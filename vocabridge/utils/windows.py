"""Windows of a corpus, each of which a model reads without the text before it."""

from __future__ import annotations

from collections.abc import Iterator

from vocabridge.alignment import Corpus

WINDOW = 1500
"""Longest window in characters, some 400 tokens."""


def windows(corpus: Corpus) -> Iterator[str]:
    """Cut a corpus into windows of at most `WINDOW` characters, at line ends where possible."""
    for chunk in corpus.chunks():
        while chunk:
            part = chunk[:WINDOW]
            end = part.rfind("\n") + 1 if len(chunk) > WINDOW else len(part)
            end = end if end > WINDOW // 2 else len(part)
            yield chunk[:end]
            chunk = chunk[end:]
