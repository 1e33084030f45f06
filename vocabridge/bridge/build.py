"""Build a bridge from the names of its parts, for the command line, the evaluation and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

import torch

from vocabridge.alignment import Alignment, Effect, Vocabulary, align, refuse_idle
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.byte_level.byte_bridge import ByteLevelBridge, ByteLevelSteering
from vocabridge.data import corpus_files
from vocabridge.models.loading import check_model, load_model
from vocabridge.models.value_network import check_value_source, load_value_source
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.combination import UNFITTED, Combination
from vocabridge.projection.strength import Strength


@overload
def build_bridge(
    base: str,
    value: str,
    *,
    byte_level: Literal[False] = ...,
    untuned: str | None = ...,
    alignment: Path | None = ...,
    combination: Path | None = ...,
    device: str | None = ...,
    dtype: torch.dtype = ...,
) -> Bridge: ...


@overload
def build_bridge(
    base: str,
    value: str,
    *,
    byte_level: Literal[True],
    untuned: str | None = ...,
    alignment: None = ...,
    combination: Path | None = ...,
    device: str | None = ...,
    dtype: torch.dtype = ...,
) -> ByteLevelBridge: ...


def build_bridge(
    base: str,
    value: str,
    *,
    byte_level: bool = False,
    untuned: str | None = None,
    alignment: Path | None = None,
    combination: Path | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Bridge | ByteLevelBridge:
    """Load a base model and one value source, and make a bridge of strength 1.

    Args:
        base: The base model's name.
        value: The value source, as for `build_steering`.
        byte_level: Whether to combine the models over bytes, without an alignment; see `ByteLevelBridge`.
        untuned: The untuned model of an expert pair.
        alignment: A saved alignment, as for `build_steering`.
        combination: Saved weights; by default `UNFITTED`.
        device: The device of all models.
        dtype: The dtype of their weights.

    Raises:
        VocabridgeError: A part is missing or damaged, or the parts do not fit together; or a byte-level bridge gets a
            tokenizer that has no byte-exact view.
    """
    refuse_idle(
        Effect("alignment", alignment is not None, not byte_level, "a byte-level bridge projects nothing; leave it out")
    )
    check_model(base)
    check_steering(value, untuned=untuned, alignment=alignment, combination=combination)
    target = load_model(base, device=device, dtype=dtype)
    if byte_level:
        source = load_value_source(value, untuned=untuned, device=device, dtype=dtype)
        weights = UNFITTED if combination is None else Combination.load(combination)
        return ByteLevelBridge(target, [ByteLevelSteering(source, weights)])
    steering = build_steering(
        target.vocabulary,
        value,
        untuned=untuned,
        alignment=alignment,
        combination=combination,
        device=device,
        dtype=dtype,
    )
    return Bridge(target, [steering])


def build_steering(
    target: Vocabulary,
    value: str,
    *,
    untuned: str | None = None,
    alignment: Path | None = None,
    combination: Path | None = None,
    policy: BoundaryPolicy = BoundaryPolicy.LOOKAHEAD,
    strength: Strength = 1.0,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Steering:
    """Load a value source, its alignment with a base model's vocabulary and its weights, and make a steering.

    Args:
        target: The base model's vocabulary.
        value: A value network's folder, or the short name of a packaged one; with `untuned`, the tuned model of an
            expert pair.
        untuned: The untuned model of the pair.
        alignment: A saved alignment; by default the default method's on the shipped corpus, from the cache if it is
            there.
        combination: Saved weights; by default `UNFITTED`.
        policy: What the source predicts where its tokens and the base's do not end together.
        strength: alpha.
        device: The device of the source's models.
        dtype: The dtype of their weights.

    Raises:
        VocabridgeError: A part is missing or damaged, the parts do not fit together, or the saved weights give the
            source no weight.
    """
    source = load_value_source(value, untuned=untuned, device=device, dtype=dtype)
    if alignment is not None:
        matrix = Alignment.load(alignment, source=source.vocabulary, target=target)
    else:
        matrix = align(source.vocabulary, target, corpus=corpus_files())
    weights = None if combination is None else Combination.load(combination)
    steering = Steering.over(target, source, matrix, weights, policy=policy, strength=strength)
    advice = f"{combination} gives the value source no weight, so that the bridge is the base alone; fit others"
    refuse_idle(Effect("combination", combination is not None, bool(steering.combination.required_scores), advice))
    return steering


def check_steering(
    value: str, *, untuned: str | None = None, alignment: Path | None = None, combination: Path | None = None
) -> None:
    """Check that the parts of a steering exist, without loading a model; arguments as for `build_steering`.

    Raises:
        VocabridgeError: A part is missing or damaged.
    """
    if combination is not None:
        Combination.load(combination)
    if alignment is not None:
        Alignment.load(alignment)
    check_value_source(value, untuned)
