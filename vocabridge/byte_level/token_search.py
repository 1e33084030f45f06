"""Greedy decoding over bytes: the most likely next token of a text, where models are combined byte by byte.

A token of the base is a string s of bytes after the text x, with the base's first token boundary after s. It has

    P(s) = p(s | x) * sum over the next byte or control token b of p(b | x s) boundary(b, s)

p is the combined distribution. boundary(b, s) is the share of the base's covers of x s b whose first token boundary
after x is at the end of s. A source that knows nothing of the base's tokens still influences where they end, by what it
expects after them: a digit follows the token ` `, a letter does not.

The most likely byte need not begin the most likely token, because many words with the same beginning may together be
more probable than any single token. So the search goes from the most likely beginning to the next. No token is more
probable than the bytes with which it begins, so the search ends once no beginning is more probable than the best token.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from vocabridge.byte_level.byte_bridge import ByteLevelText
from vocabridge.models.prompts import Piece


@dataclass(frozen=True)
class TokenCandidate:
    """A token that may come next.

    Attributes:
        piece: Its bytes, without those that the text has already, or a control token's id.
        text: The text that continues with it, given the token boundary at its end.
        p: Its probability.
        changed: At how many of its bytes steering changed the most likely byte.
        lost: The greatest share of a model's mass that may be unevaluated or unchecked at any of its bytes.
    """

    piece: Piece
    text: ByteLevelText
    p: float
    changed: int
    lost: float


def most_likely_token(text: ByteLevelText) -> TokenCandidate:
    """Return the most likely next token of a text.

    Raises:
        VocabridgeError: The base's tokenizer cannot spell the text.
    """
    best = TokenCandidate(b"", text, 0.0, 0, 0.0)
    beginnings = [(-1.0, b"", text, 0, 0.0)]  # a heap, the most likely first
    while beginnings and -beginnings[0][0] > best.p:
        negative_p, data, beginning, changed, lost = heapq.heappop(beginnings)
        distribution = beginning.next()
        lost = max(lost, distribution.lost)
        if data:
            p = -negative_p * float(distribution.p @ beginning.boundary_share(len(data)))
            if p > best.p:
                best = TokenCandidate(data, beginning.at_boundary(len(data)), p, changed, lost)
        changed += int(distribution.p.argmax() != distribution.p_base.argmax())
        p_control = distribution.p[256:]
        if not data and p_control.any() and p_control.max() > best.p:
            control_id = int(text.bridge.base.control_ids[p_control.argmax()])
            best = TokenCandidate(control_id, text.after(control_id), float(p_control.max()), changed, lost)
        for byte in np.flatnonzero(-negative_p * distribution.p[:256] > best.p).tolist():
            next_byte = bytes([byte])
            p_data = negative_p * float(distribution.p[byte])
            heapq.heappush(beginnings, (p_data, data + next_byte, beginning.after(next_byte), changed, lost))
    return best
