"""What a source says at a boundary of the target's at which its own token may not end."""

from __future__ import annotations

import enum


class Policy(enum.Enum):
    """How a source speaks about a text that another tokenizer has cut.

    Attributes:
        SKIP: Nothing, where its own distribution would rather run on (`heal` tells) or a character is not whole.
        RETOKENIZE: What it says after the text so far, cut by its own tokenizer as it stands.
        HEAL: All ways to cut the text so far, weighted by its own probabilities (`healing`).
        LOOK_AHEAD: The same, and where a source token may be the beginning of several target tokens, the source is
            asked what follows it (`look_ahead`). Only for carries of distributions.
    """

    SKIP = "skip"
    RETOKENIZE = "retokenize"
    HEAL = "heal"
    LOOK_AHEAD = "look-ahead"
