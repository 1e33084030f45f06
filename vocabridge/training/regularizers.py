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

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the names without torch
    pass
