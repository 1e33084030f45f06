"""The bridge: a base model and the value sources that steer it, as one causal language model.

    base model  --- logits over T ---------------------------+
        |                                                    +--> sum of changes --> limits --> logits over T
        +-- text --> value source --> scores over S --> projection, combination

A bridge is one model of transformers, with `forward`, `generate`, caches, left-padded batches and beam search. Its
tokens are the base model's. Every value source reads the text that the base reads and writes, in tokens of its own
vocabulary (`SourceStream`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vocabridge.alignment import Alignment, VocabridgeError
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.pretrained_methods import PretrainedMethods, check_ids, check_is_text
from vocabridge.bridge.source_streams import NO_TEXT, SourceStreams
from vocabridge.bridge.steering import Steering, SteeringSettings, steer
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.loading import LoadedModel
from vocabridge.models.transformers_version import CACHE, cache_name
from vocabridge.models.value_source import ValueSource
from vocabridge.projection.combination import Combination

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Pipelines warn about a model for text generation whose class is not listed here.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["vocabridge"] = "Bridge"


class Bridge(PretrainedMethods, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A base model steered by value sources of any family.

    While no steering is active, the outputs are the base model's, bit for bit.

    Attributes:
        base: The base model; its weights never change.
        vocabulary: The base's vocabulary, which is the target vocabulary.
        limits: The limits of steering.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False  # because tokenizers run in each forward

    def __init__(self, base: LoadedModel, steerings: Sequence[Steering], limits: SteeringLimits | None = None) -> None:
        """Assemble a bridge from its parts; `Bridge.over` makes one from a single value source.

        Args:
            base: The base model.
            steerings: The steerings, each made for the base's vocabulary.
            limits: The limits of steering; by default none.

        Raises:
            VocabridgeError: A steering is for another vocabulary than the base's, or the base's logits are not as wide
                as its vocabulary.
        """
        super().__init__(base.model.config)
        self.base = base.model
        self.vocabulary = base.vocabulary
        self._steerings = nn.ModuleList(steerings)
        self.limits = limits or SteeringLimits()
        self.generation_config = copy.deepcopy(base.model.generation_config)
        self.generation_config.eos_token_id = list(end_tokens(base.vocabulary, base.model)) or None
        width = base.model.get_output_embeddings().weight.shape[0]
        if width != base.vocabulary.size:
            raise VocabridgeError(
                f"{base.name} gives {width} logits, but its vocabulary is for {base.vocabulary.size}; load both with "
                "load_model, or build the vocabulary with the model's width"
            )
        for steering in steerings:
            steering.check(base.vocabulary)
            steering.to_device(base.model.device)

    @classmethod
    def over(
        cls,
        base: LoadedModel,
        source: ValueSource,
        alignment: Alignment,
        combination: Combination | None = None,
        *,
        limits: SteeringLimits | None = None,
        **settings: Unpack[SteeringSettings],
    ) -> Bridge:
        """Make a bridge of a base model and one value source.

        Args:
            base: The base model, of any family.
            source: A value network or an expert pair.
            alignment: The alignment from the source's vocabulary to the base's.
            combination: The combination; by default `combination.UNFITTED`.
            limits: The limits of steering; by default none.
            **settings: See `SteeringSettings`.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        return cls(base, [Steering.over(base.vocabulary, source, alignment, combination, **settings)], limits)

    @property
    def steerings(self) -> list[Steering]:
        """The steerings, whose changes of logits add up."""
        return cast("list[Steering]", list(self._steerings))

    @property
    def steering(self) -> Steering:
        """The steering of a bridge that has exactly one.

        Raises:
            VocabridgeError: The bridge has none, or more than one.
        """
        if len(self.steerings) != 1:
            raise VocabridgeError(f"this bridge has {len(self.steerings)} steerings; name one: bridge.steerings[0]")
        return self.steerings[0]

    def forward(  # Long because its parameters are transformers', each documented
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the base model and the active value sources, and return steered logits.

        Args:
            input_ids: Ids of the base's tokenizer, (batch, n).
            attention_mask: (batch, past + n), 0 for padding, which is not part of the text.
            position_ids: (batch, n); by default the base model's.
            past_key_values: A `BridgeCache` from an earlier call. The argument may also be called `cache`, as in
                transformers 5.24 and later.
            use_cache: Whether to return a cache; by default as in the base's configuration.
            logits_to_keep: The number of last positions for which logits are computed; 0 for all.
            labels: Ids for the mean cross-entropy, (batch, n); -100 where there is none.
            return_dict: Whether to return an object and not a tuple; by default as in the base's configuration.
            **kwargs: Passed to the base model, for example `output_hidden_states` and `output_attentions`.

        Returns:
            Logits (batch, k, |T|), float32 unless no steering is active; the cache; and, if requested, the base's
            hidden states and attentions. Rows that `generate` has finished are 0 everywhere.

        Raises:
            VocabridgeError: There are no `input_ids`, or not a batch of ids of the base; the cache is not a
                `BridgeCache`, or has not read this text from its start; or there are two caches.
        """
        if (name := cache_name(kwargs)) is not None:
            if past_key_values is not None:
                raise VocabridgeError(f"past_key_values and {name} are both a cache; give one of them")
            past_key_values = kwargs.pop(name)
        check_is_text(kwargs)
        if input_ids is None:
            raise VocabridgeError("a bridge reads text; give its tokens as input_ids")
        check_ids(input_ids, self.vocabulary.size)
        if use_cache is None:
            use_cache = self.config.get_text_config(decoder=True).use_cache
        if past_key_values is None and use_cache:
            past_key_values = BridgeCache(DynamicCache(config=self.config.get_text_config(decoder=True)))
        if past_key_values is not None and not isinstance(past_key_values, BridgeCache):
            raise VocabridgeError(
                f"a bridge cannot use a {type(past_key_values).__name__}; wrap it in a BridgeCache, or leave it out"
            )
        batch, rows = len(input_ids), None
        if past_key_values is not None:
            past_key_values.retire()
            rows = past_key_values.rows
        if rows is not None:
            input_ids = input_ids[rows]
            attention_mask = None if attention_mask is None else attention_mask[rows]
            position_ids = None if position_ids is None else position_ids[rows]
        # Converted to an int, because the length of a static cache is a tensor that later changes in place.
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        output = self.base(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **{CACHE: past_key_values},
            **kwargs,
        )
        logits = output.logits
        if any(steering.is_active for steering in self.steerings):
            logits = self._steered(logits, input_ids, attention_mask, past_key_values, past)
        logits = _scatter_rows(batch, rows, logits)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocabulary.size)
        fields: dict[str, Any] = {
            "loss": loss,
            "logits": logits,
            CACHE: past_key_values,
            "hidden_states": _scatter_all(batch, rows, getattr(output, "hidden_states", None)),
            "attentions": _scatter_all(batch, rows, getattr(output, "attentions", None)),
        }
        result = CausalLMOutputWithPast(**fields)
        if return_dict is None:
            return_dict = self.config.return_dict
        return result if return_dict else result.to_tuple()

    @torch.no_grad()
    def _steered(
        self, logits: Tensor, input_ids: Tensor, mask: Tensor | None, cache: BridgeCache | None, past: int
    ) -> Tensor:
        """Return the base's logits (batch, k, |T|) with the changes of all active steerings, float32."""
        batch, logits_to_keep, _ = logits.shape
        # Tokenizers run on the host, so the new ids go there once a step: n integers a row.
        if mask is not None:
            input_ids = input_ids.where(mask[:, -input_ids.shape[1] :] != 0, NO_TEXT)
        streams = SourceStreams() if cache is None else cache.streams
        steered_by = streams.advance(self.steerings, input_ids.tolist(), past, logits_to_keep)
        flat = logits.flatten(0, 1)
        n = torch.arange(logits_to_keep, device=flat.device).repeat(batch) + (0 if cache is None else cache.positions)
        steered = steer(flat, steered_by, n, self.limits)
        if cache is not None:
            cache.positions += logits_to_keep
            if logits_to_keep == 1:
                cache.count(flat, steered)
        return steered.view_as(logits)

    # The two methods below override private methods of transformers, whose arguments vary with its version. So a cache
    # and stopping criteria are recognized by their types, and `forward` refuses a cache that was missed here.

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Wrap the cache that transformers makes for the base, of whatever kind, in a `BridgeCache`."""
        super()._prepare_cache_for_generation(*args, **kwargs)  # type: ignore[misc]
        for inputs in [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]:
            name = cache_name(inputs)
            if name is not None and not isinstance(inputs[name], BridgeCache):
                inputs[name] = BridgeCache(inputs[name])

    def _sample(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Sample as transformers does, and report finished rows to the cache, so that no model runs them further."""
        cache = kwargs.get(cache_name(kwargs) or "")
        if isinstance(cache, BridgeCache) and len(input_ids) > 1:
            args = tuple(_with_reporting(value, cache) for value in args)
            kwargs = {name: _with_reporting(value, cache) for name, value in kwargs.items()}
        return super()._sample(input_ids, *args, **kwargs)  # type: ignore[arg-type,misc]

    @property
    def device(self) -> torch.device:
        """The base model's device."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """The base model's dtype."""
        return self.base.dtype

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the base model's input embeddings."""
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the base model's output embeddings."""
        return self.base.get_output_embeddings()


def _scatter_rows(batch: int, rows: Tensor | None, values: Tensor) -> Tensor:
    """Return values of some rows of a batch, None for all, as a tensor of the whole batch that is 0 in other rows."""
    return values if rows is None else values.new_zeros(batch, *values.shape[1:]).index_copy_(0, rows, values)


def _scatter_all(batch: int, rows: Tensor | None, values: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return None if values is None else tuple(_scatter_rows(batch, rows, value) for value in values)


def _with_reporting(argument: Any, cache: BridgeCache) -> Any:
    """Return stopping criteria that report finished rows to the cache; any other argument unchanged."""
    return _ReportingCriteria(argument, cache) if isinstance(argument, StoppingCriteriaList) else argument


class _ReportingCriteria(StoppingCriteriaList):
    """Stopping criteria that report the finished rows to a cache."""

    def __init__(self, criteria: StoppingCriteriaList, cache: BridgeCache) -> None:
        super().__init__(criteria)
        self._cache = cache

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        finished = super().__call__(input_ids, scores, **kwargs)
        self._cache.finish(finished)
        return finished
