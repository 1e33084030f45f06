"""The versions of transformers that vocabridge works with, and what differs between them.

Version 5.24 renamed the cache, as an argument and in a model's output, from `past_key_values` to `cache`. This package
takes the name from `CACHE`, and finds a cache among arguments by its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import transformers
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vocabridge.alignment import VocabridgeError

OLDEST, NEXT = (5, 16), (5, 25)
"""The oldest minor version that was tested, and the one after the newest; `pyproject.toml` has the same range."""

CACHE = next((field.name for field in fields(CausalLMOutputWithPast) if "Cache" in str(field.type)), "past_key_values")
"""The cache's name in this version of transformers: an argument of `forward` and `generate`, a field of the output."""


def check_transformers() -> None:
    """Check that the installed version of transformers is one that was tested.

    Raises:
        VocabridgeError: It is older or newer.
    """
    major, minor, *_ = transformers.__version__.split(".")
    if not OLDEST <= (int(major), int(minor)) < NEXT:
        requirement = f"transformers>={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, NEXT))}"
        raise VocabridgeError(
            f"transformers {transformers.__version__} is installed, and vocabridge needs {requirement}; "
            f"run: pip install '{requirement}'"
        )


def cache_name(arguments: Mapping[str, Any]) -> str | None:
    """Find the name of the cache among keyword arguments; None if there is no cache."""
    return next((name for name, value in arguments.items() if isinstance(value, Cache)), None)
