"""The likeliest next token of a text that models write together byte by byte.

A token of the base's is some bytes s behind the text x, and a cut behind them, the first one behind x. It has

    P(s) = p(s | x) * sum over what comes next, b, of p(b | x s) cut(b, s)

p is the combination's, over bytes and the base's control tokens; cut(b, s) is the share of the base's covers of x s b
that cut there first. So models that know nothing of the base's tokens have a say in where they end by what they expect
behind them: a digit follows the token ` `, a letter does not. The search goes from the likeliest beginning to the
next, and no token has more than the bytes it begins with.

The likeliest byte need not begin the likeliest token: many words that begin alike may have more together than any one.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from vocabridge.byte_level.byte_bridge import ByteLevelText
from vocabridge.models.prompts import Piece


@dataclass(frozen=True)
class NextToken:
    """A token that may come next.

    Attributes:
        piece: Its bytes, behind a text that ends within a token those that are left of it; or a control token's id.
        text: The text that goes on with it, and has a cut there.
        p: Its probability.
        changed: Behind how many of the bytes in front of its end steering changed the likeliest byte.
        lost: The most that a model may have left unread or unjudged there, a share of its mass.
    """

    piece: Piece
    text: ByteLevelText
    p: float
    changed: int
    lost: float


def likeliest_token(text: ByteLevelText) -> NextToken:
    """The likeliest token that may come next.

    Raises:
        VocabridgeError: The base's tokenizer cannot spell the text.
    """
    best = NextToken(b"", text, 0.0, 0, 0.0)
    beginnings = [(-1.0, b"", text, 0, 0.0)]  # the likeliest one first
    while beginnings and -beginnings[0][0] > best.p:
        negative_p, data, beginning, changed, lost = heapq.heappop(beginnings)
        found = beginning.next()
        lost = max(lost, found.lost)
        if data:
            p = -negative_p * float(found.p @ beginning.cuts(len(data)))
            if p > best.p:
                best = NextToken(data, beginning.cut(len(data)), p, changed, lost)
        changed += int(found.p.argmax() != found.p_base.argmax())
        symbol = 256 + int(found.p[256:].argmax()) if found.p[256:].any() and not data else None
        if symbol is not None and found.p[symbol] > best.p:
            token = int(text.bridge.base.symbols[symbol - 256])
            best = NextToken(token, text.after(token), float(found.p[symbol]), changed, lost)
        for byte in np.flatnonzero(-negative_p * found.p[:256] > best.p).tolist():
            more = bytes([byte])
            entry = (negative_p * float(found.p[byte]), data + more, beginning.after(more), changed, lost)
            heapq.heappush(beginnings, entry)
    return best
