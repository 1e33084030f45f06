"""Projection methods: how a source's predictions become changes of the base's logits, one file each.

To add a method, write `vocabridge/projection/methods/NAME.py` with a class `Method`, and add NAME to the enum
`ProjectionMethod` in `vocabridge/options.py`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import cast

from vocabridge.options import ProjectionMethod
from vocabridge.projection.methods.base import Method


@lru_cache
def method_of(name: ProjectionMethod) -> Method:
    """Return the method of a name: `Method` in the file that has the name's value."""
    module = import_module(f"{__name__}.{name.value.replace('-', '_')}")
    return cast(Method, module.Method())
