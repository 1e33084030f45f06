"""Terms beside the cross-entropy, which hold a change of logits back.

At a position, in logits or nats:

    l1         mean over the vocabulary of |z_delta|
    l2         mean over the vocabulary of z_delta^2
    entropy    -H(p), p = softmax(z_base + z_delta): what is sure of itself costs (Pereyra et al., arXiv 1701.06548)
    kl         KL(p || p_base): what leaves the base costs, as in RLHF (Ziegler et al., arXiv 1909.08593)
    released   l1 as the code of Lu et al. (arXiv 2410.21027) has it: weight 1 always, mean over all positions of a
               batch on one device, prompt and padding included

All but the last are means over the positions that are learned.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the names without torch
    from torch import Tensor


class Regulariser(str, Enum):
    """What is added to the loss."""

    L1 = "l1"
    L2 = "l2"
    ENTROPY = "entropy"
    KL = "kl"
    RELEASED = "released"

    def at(self, z_base: Tensor, z_delta: Tensor) -> Tensor:
        """The term at each position, (k,).

        Args:
            z_base: The base's logits, float32 (k, |V|).
            z_delta: The change of them, float32 (k, |V|).
        """
        if self is Regulariser.L2:
            return z_delta.square().mean(-1)
        if self in (Regulariser.L1, Regulariser.RELEASED):
            return z_delta.abs().mean(-1)
        log_p = (z_base + z_delta).log_softmax(-1)
        against = log_p - z_base.log_softmax(-1) if self is Regulariser.KL else log_p
        return (log_p.exp() * against).sum(-1)
