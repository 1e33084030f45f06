"""Bridges in EleutherAI's lm-evaluation-harness, so that any of its tasks runs on a bridge.

Importing this module registers the model `vocabridge`; `python -m vocabridge.harness` is `lm_eval` with this model. A
bridge reads the same tokens that `lm_eval` gives to its base model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vocabridge.alignment.errors import Effect, VocabridgeError, refuse_idle

try:  # before torch, so that the error comes without the seconds that torch needs
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
    """A bridge as a model of the harness's class for transformers."""

    def __init__(
        self, bridge: str, strength: float | None = None, device: str = "cpu", dtype: str = "bfloat16", **kwargs: Any
    ) -> None:
        """Load a bridge.

        Args:
            bridge: The folder that `vocabridge bridge` or `save_bridge` wrote.
            strength: Strength of all steerings, in place of the saved one; 0 is the plain base model.
            device: The device of the models.
            dtype: The dtype of their weights, by torch's name.
            **kwargs: Further arguments of `HFLM`, such as batch_size (for generation) and max_length.

        Raises:
            VocabridgeError: The folder is not a bridge, or a part of the bridge is missing.
        """
        loaded = load(Path(bridge), device=device, dtype=getattr(torch, dtype))
        steered = any(steering.combination.required_scores for steering in loaded.steerings)
        advice = "no steering of the bridge has a weight, so that it is the base alone; leave it out"
        refuse_idle(Effect("strength", strength is not None, steered, advice))
        for steering in loaded.steerings:
            steering.strength = steering.strength if strength is None else float(strength)
        tokenizer_folder = model_folder(tokenizer_place(loaded.base))
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
        super().__init__(pretrained=loaded, tokenizer=tokenizer, backend="causal", **kwargs)
        self.pretrained = bridge  # the name that the harness's reports show

    @torch.no_grad()
    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Score continuations as `HFLM` does, but steer only at their tokens, because the prompt's are not scored."""
        results = []
        for key, context, continuation in tqdm(requests, disable=disable_tqdm, desc="loglikelihood"):
            ids = torch.tensor([(context + continuation)[-(self.max_length + 1) : -1]], device=self.device)
            truth = torch.tensor(continuation[-ids.shape[1] :], device=self.device)
            log_p = self._log_p(ids, len(truth))
            likelihood = log_p.gather(1, truth[:, None]).sum().item()
            results.append((likelihood, bool((log_p.argmax(-1) == truth).all())))
            if key is not None:  # None for a rolling request
                self.cache_hook.add_partial("loglikelihood", key, results[-1])
        return results

    def _log_p(self, ids: Tensor, logits_to_keep: int) -> Tensor:
        """Return the log-probabilities at the last positions, (logits_to_keep, |T|)."""
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=logits_to_keep).logits[0]
        return logits.float().log_softmax(-1)
