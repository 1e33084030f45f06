"""The bridge: a base model, a value source and an alignment as one causal language model.

    base model  --- logits over T ---------------------------+
        |                                                    +--> combination --> logits over T
        +-- text --> value source --> scores over S --> projection

To transformers it is one model: `forward`, `generate`, caches, left-padded batches, beam search. Its tokens are
the base model's. What the base reads and writes is read along by the value source as text, in its own tokens
(`Reading`). Boundary policy `skip`: inside a UTF-8 character, and before any text, the source has no say and the
base model speaks alone.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vocabridge.alignment import Alignment, VocabridgeError
from vocabridge.combination import Combination
from vocabridge.models import LoadedModel
from vocabridge.projection import Projection
from vocabridge.reading import Reading
from vocabridge.value_source import Scores, ValueSource

_POSITIONS_AT_ONCE = 8  # bounds the memory of combining: some ten float32 tensors of this many rows of |T|


class BridgeCache(DynamicCache):
    """The base model's cache, and what the value source has read.

    Attributes:
        reading: The value source's side; None until the first forward.
    """

    def __init__(self, **arguments: Any) -> None:
        """Takes the arguments of transformers' `DynamicCache`."""
        super().__init__(**arguments)
        self.reading: Reading | None = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps the rows with these indices, (batch,) int64."""
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        if self.reading is not None:
            self.reading.reorder(beam_idx)

    def crop(self, max_length: int) -> None:
        """Not supported: the value source's memory cannot forget text.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a bridge cannot take tokens back, so assisted generation does not work with it")


class Bridge(PreTrainedModel, GenerationMixin):
    """A base model steered by a value source of another family.

    Attributes:
        base: The base model; its weights never change.
        vocabulary: The base's vocabulary, the target.
        source: The value source.
        combination: How the two are combined at strength 1. May be replaced at any time.
        strength: alpha. At 0 the value source is not run, and all is bit for bit the base model's.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        base: LoadedModel,
        source: ValueSource,
        projection: Projection,
        combination: Combination | None = None,
        *,
        strength: float = 1.0,
    ) -> None:
        """Assembles a bridge from its parts; `Bridge.over` checks that the parts fit."""
        super().__init__(base.model.config)
        self.base = base.model
        self.vocabulary = base.vocabulary
        self.source = source
        self.projection = projection.to(base.model.device)
        self.combination = combination or Combination()
        self.strength = strength
        self.generation_config = base.model.generation_config

    @classmethod
    def over(
        cls,
        base: LoadedModel,
        source: ValueSource,
        alignment: Alignment,
        combination: Combination | None = None,
        *,
        strength: float = 1.0,
    ) -> Bridge:
        """Bridges a value source onto a base model.

        Args:
            base: The base model, any family.
            source: A value network or a contrast pair.
            alignment: From the source's vocabulary to the base's.
            combination: By default the informed carry with weights (1, 1, 1).
            strength: alpha.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        alignment.check(source=source.vocabulary, target=base.vocabulary)
        return cls(base, source, Projection.of(alignment), combination, strength=strength)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One forward of the bridge.

        Args:
            input_ids: (batch, n) ids of the base's tokenizer.
            attention_mask: (batch, past + n), 0 for padding; padding is no text.
            position_ids: (batch, n); by default what the base model takes.
            past_key_values: A `BridgeCache` from an earlier call.
            use_cache: Whether to return a cache; by default as the base's configuration says.
            logits_to_keep: Give logits for the last that many positions only; 0 for all.
            labels: (batch, n) ids to compute the mean cross-entropy on, -100 where there is none.
            **kwargs: Passed to the base model.

        Returns:
            Logits (batch, k, |T|), float32 unless strength is 0, and the cache.

        Raises:
            VocabridgeError: `past_key_values` is another model's cache.
        """
        if use_cache is None:
            use_cache = self.config.get_text_config(decoder=True).use_cache
        if past_key_values is None and use_cache:
            past_key_values = BridgeCache(config=self.config.get_text_config(decoder=True))
        if past_key_values is not None and not isinstance(past_key_values, BridgeCache):
            raise VocabridgeError(
                f"a bridge cannot use a {type(past_key_values).__name__}; pass a BridgeCache, or none and it makes one"
            )
        output = self.base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        logits = output.logits
        if self.strength != 0:
            logits = self._steered(logits, input_ids, attention_mask, past_key_values)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocabulary.size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    @torch.no_grad()
    def scores(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        keep: int,
        needs: dict[str, bool],
        cache: BridgeCache | None,
    ) -> tuple[Scores, Tensor]:
        """What the value source says after each of the last `keep` tokens.

        Args:
            input_ids: (batch, n) ids of the base's tokenizer.
            attention_mask: (batch, past + n) or None.
            keep: How many positions.
            needs: The quantities to compute, as `Combination.needs` names them.
            cache: Where the source's memory is kept; None to read the text from its start and forget it.

        Returns:
            Scores (batch, keep, |S|), and where the source has a say, bool (batch, keep).
        """
        models = self.source.needed(**needs)
        reading = cache.reading if cache is not None else None
        if reading is None or reading.models != models:
            if cache is not None and cache.get_seq_length() > input_ids.shape[1]:
                raise VocabridgeError(
                    "the combination or strength changed while text was being produced; start a new cache"
                )
            reading = Reading(self.source, models, len(input_ids))
        if cache is not None:
            cache.reading = reading
        # Text is read where tokenizers run, so the new ids go to the host once a step: n integers a row.
        new = (
            input_ids if attention_mask is None else input_ids.where(attention_mask[:, -input_ids.shape[1] :] != 0, -1)
        )
        data = self.vocabulary.token_bytes
        pieces = [[(data[i] or b"") if i >= 0 else b"" for i in row] for row in new.tolist()]
        logits, speaks = reading.read(pieces, keep)
        return self.source.scores(logits), speaks

    def _steered(
        self, logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None, cache: BridgeCache | None
    ) -> Tensor:
        """The base's logits (batch, k, |T|) combined with the value source's scores, float32."""
        combination = self.combination.at(self.strength)
        scores, speaks = self.scores(input_ids, attention_mask, logits.shape[1], combination.needs(), cache)
        speaks = speaks.to(logits.device).flatten()
        flat = logits.float().flatten(0, 1)
        steered = torch.empty_like(flat)
        for start in range(0, len(flat), _POSITIONS_AT_ONCE):
            part = slice(start, start + _POSITIONS_AT_ONCE)
            combined = combination.apply(self.projection, flat[part], scores.at(part, logits.device))
            steered[part] = torch.where(speaks[part, None], combined, flat[part])
        return steered.view_as(logits)

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        """Gives `generate` a cache for both models, where it would have made one for the base alone."""
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache:
            model_kwargs["past_key_values"] = BridgeCache(config=self.config.get_text_config(decoder=True))
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        """Where the base model is."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """The base model's."""
        return self.base.dtype

    def get_input_embeddings(self) -> torch.nn.Module:
        """The base model's."""
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        """The base model's."""
        return self.base.get_output_embeddings()
