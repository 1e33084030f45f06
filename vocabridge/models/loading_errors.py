"""Why transformers could not load a model, as one sentence with advice that is safe to follow."""

from __future__ import annotations

import pickle

from vocabridge.alignment import VocabridgeError

_SPEAKING = (OSError, ValueError, RuntimeError, ImportError)
"""Errors whose text says what is wrong; that of others, such as a KeyError, may be a mere name."""


def loading_error(name: str, error: Exception, others: str) -> VocabridgeError:
    """The error to raise for a model that cannot be loaded.

    Args:
        name: What the user called it.
        error: What transformers raised.
        others: What can be given in place of it.
    """
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return VocabridgeError(
            f"the weights of {name!r} are a pickle that could run code, and it is not opened; convert them to "
            "safetensors where they come from, or take a model with a model.safetensors"
        )
    if "trust_remote_code" in text or "custom code" in text:
        return VocabridgeError(
            f"{name!r} brings Python code of its own (auto_map in its config.json), which is never run; take a model "
            "that transformers knows, or a conversion to one"
        )
    reason = text if isinstance(error, _SPEAKING) and text else f"{type(error).__name__}: {text}"
    return VocabridgeError(f"cannot load a causal language model from {name!r} ({reason[:250]}); give {others}")
