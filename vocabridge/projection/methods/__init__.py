"""Projection methods: how a source's predictions become changes of the base's logits, one file each.

To add a method, write `vocabridge/projection/methods/NAME.py` with a class `Method`, and add NAME to the enum
`ProjectionMethod` in `vocabridge/options.py`.
"""

from __future__ import annotations

from importlib import import_module

from vocabridge.options import ProjectionMethod
from vocabridge.projection.methods.base import Method

METHODS: dict[ProjectionMethod, Method] = {
    name: import_module(f"{__name__}.{name.value.replace('-', '_')}").Method() for name in ProjectionMethod
}
"""The methods by name: each is the class `Method` of the file that is called like the name."""
