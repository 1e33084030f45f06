"""Bridges in EleutherAI's lm-evaluation-harness, so that any of its tasks can be run on one.

Importing this module registers the model `vocabridge`; `python -m vocabridge.harness` is `lm_eval` with it. A bridge
reads the tokens that `lm_eval` gives its base model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vocabridge.alignment.errors import Effect, VocabridgeError, refuse_idle

try:  # first: without it, that is said before torch is imported
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
    from tqdm import tqdm
except ImportError as error:
    raise VocabridgeError("lm-evaluation-harness is missing; run: pip install 'vocabridge[harness]'") from error

import torch
from torch import Tensor
from transformers import AutoTokenizer

from vocabridge.bridge.saving import load
from vocabridge.models.loading import model_folder, tokenizer_place


@register_model("vocabridge")
class HarnessModel(HFLM):
    """A bridge as the harness's own class for models of transformers."""

    def __init__(
        self, bridge: str, strength: float | None = None, device: str = "cpu", dtype: str = "bfloat16", **more: Any
    ) -> None:
        """Loads a bridge.

        Args:
            bridge: The folder that `vocabridge bridge` or `save_bridge` wrote.
            strength: Of all its steerings, in place of what the folder says; 0 is the plain base model.
            device: Where the models go.
            dtype: Of their weights, by torch's name.
            **more: What `HFLM` takes besides: batch_size (of generation), max_length, ...

        Raises:
            VocabridgeError: The folder is no bridge, or a part of it is missing.
        """
        loaded = load(Path(bridge), device=device, dtype=getattr(torch, dtype))
        advice = "no steering of the bridge has a weight, so that it is the base alone; leave it out"
        refuse_idle(
            Effect(
                "strength",
                strength is not None,
                any(one.combination.required_scores for one in loaded.steerings),
                advice,
            )
        )
        for steering in loaded.steerings:
            steering.strength = steering.strength if strength is None else float(strength)
        place = model_folder(tokenizer_place(loaded.base))
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        super().__init__(pretrained=loaded, tokenizer=tokenizer, backend="causal", **more)
        self.pretrained = bridge  # a name, as reports have it

    @torch.no_grad()
    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """As in `HFLM`, but steers at the continuation's tokens only: what the prompt's would be is never looked at."""
        found = []
        for key, context, continuation in tqdm(requests, disable=disable_tqdm, desc="loglikelihood"):
            ids = torch.tensor([(context + continuation)[-(self.max_length + 1) : -1]], device=self.device)
            truth = torch.tensor(continuation[-ids.shape[1] :], device=self.device)
            log_p = self._log_p(ids, len(truth))
            likelihood = log_p.gather(1, truth[:, None]).sum().item()
            found.append((likelihood, bool((log_p.argmax(-1) == truth).all())))
            if key is not None:  # of a rolling request
                self.cache_hook.add_partial("loglikelihood", key, found[-1])
        return found

    def _log_p(self, ids: Tensor, keep: int) -> Tensor:
        """Log-probabilities at the last positions, (keep, |T|)."""
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]
        return logits.float().log_softmax(-1)
