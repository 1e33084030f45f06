"""From names to a ready bridge: what the command line, the evaluation and the demo have in common."""

from __future__ import annotations

from pathlib import Path

from vocabridge.alignment import Alignment, align
from vocabridge.bridge import Bridge
from vocabridge.combination import Combination
from vocabridge.data import corpus_files
from vocabridge.models import load_model
from vocabridge.value_network import load_value_source


def build_bridge(
    base: str,
    value: str,
    *,
    untuned: str | None = None,
    alignment: Path | None = None,
    combination: Path | None = None,
    strength: float = 1.0,
    device: str = "cpu",
) -> Bridge:
    """Loads the parts of a bridge and puts them together.

    Args:
        base: The base model by name.
        value: A value network's folder; with `untuned`, the tuned model of a contrast pair.
        untuned: The untuned model of the pair.
        alignment: A saved alignment; without one, the default from the shipped corpus, by way of the cache.
        combination: Saved weights; without them the informed carry at (1, 1, 1).
        strength: alpha.
        device: Where the models go.

    Raises:
        VocabridgeError: A part is missing or damaged, or the parts do not fit.
    """
    source = load_value_source(value, untuned=untuned, device=device)
    target = load_model(base, device=device)
    if alignment is not None:
        matrix = Alignment.load(alignment, source=source.vocabulary, target=target.vocabulary)
    else:
        matrix = align(source.vocabulary, target.vocabulary, corpus=corpus_files())
    weights = None if combination is None else Combination.load(combination)
    return Bridge.over(target, source, matrix, weights, strength=strength)
