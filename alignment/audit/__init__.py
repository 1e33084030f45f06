"""The audit of an alignment: what it covers, and where the mass of a real text goes.

`reading`, both tokenizers cut the text; `coverage`, the ids and tokens that have entries; `projected_mass`, the mass
and the bits where tokens start together; `worst`, `digits`, `overlap`, `weak`, what people ask next; `audit`, all.
"""

from vocabridge.alignment.audit.audit import Audit
from vocabridge.alignment.audit.weak import weak_classes

__all__ = ["Audit", "weak_classes"]
