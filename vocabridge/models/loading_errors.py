"""Errors of transformers about models that cannot be loaded, turned into one sentence with safe advice."""

from __future__ import annotations

import pickle

from vocabridge.alignment import VocabridgeError

_DESCRIPTIVE = (OSError, ValueError, RuntimeError, ImportError)
"""Errors whose text describes the problem; that of others, such as a KeyError, may be only a name."""


def loading_error(name: str, error: Exception, others: str) -> VocabridgeError:
    """Return the error to raise for a model that cannot be loaded.

    Args:
        name: The name that the user gave.
        error: The exception of transformers.
        others: What the user can give instead, for the advice.
    """
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return VocabridgeError(
            f"the weights of {name!r} are a pickle that could run code, so they are not opened; convert them to "
            "safetensors where they come from, or use a model with a model.safetensors"
        )
    if "trust_remote_code" in text or "custom code" in text:
        return VocabridgeError(
            f"{name!r} needs Python code of its own (auto_map in its config.json), which is never run; use a model "
            "that transformers knows, or a conversion to one"
        )
    reason = text if isinstance(error, _DESCRIPTIVE) and text else f"{type(error).__name__}: {text}"
    return VocabridgeError(f"cannot load a causal language model from {name!r} ({reason[:250]}); give {others}")
