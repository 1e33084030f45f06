"""Projection methods, one file each: they turn a source's scores into changes of the base's logits.

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
"""The methods by name. Each is an instance of the class `Method` of the file with that name."""
