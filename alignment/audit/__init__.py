"""The audit of an alignment: the tokens that it covers, and where the probability mass goes on a text.

| module | content |
| --- | --- |
| `fertility` | how finely both tokenizers cut the text |
| `coverage` | the share of ids, and of the text's tokens, that have entries |
| `projected_mass` | the mass that arrives and the bits lost where tokens of both sides start at the same byte |
| `worst` | the target tokens that lose most bits |
| `digits` | how both tokenizers cut numbers |
| `overlap` | the tokens with the same bytes |
| `weak` | the classes of tokens with little coverage |
| `audit` | all of these in one object |
"""

from vocabridge.alignment.audit.audit import Audit
from vocabridge.alignment.audit.weak import weak_classes

__all__ = ["Audit", "weak_classes"]
