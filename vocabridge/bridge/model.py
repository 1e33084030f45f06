"""The bridge: a base model and the value sources that steer it, as one causal language model.

    base model  --- logits over T ---------------------------+
        |                                                    +--> sum of changes --> limits --> logits over T
        +-- text --> value source --> scores over S --> projection, combination

To transformers it is one model: `forward`, `generate`, caches, left-padded batches, beam search. Its tokens are
the base model's. What the base reads and writes is read along by every value source as text, in its own tokens
(`SourceStream`).
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
from vocabridge.bridge.pretrained_methods import PretrainedMethods, check_is_text
from vocabridge.bridge.source_streams import NO_TEXT, SourceStreams
from vocabridge.bridge.steering import Steering, SteeringSettings, steer
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.loading import LoadedModel
from vocabridge.models.transformers_version import CACHE, cache_name
from vocabridge.models.value_source import ValueSource
from vocabridge.projection.combination import Combination

if TYPE_CHECKING:
    from typing_extensions import Unpack

# The names of models that pipelines take for text generation; one that is not there is warned of.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["vocabridge"] = "Bridge"


class Bridge(PretrainedMethods, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A base model steered by value sources of other families.

    While no steering is active, all is bit for bit the base model's.

    Attributes:
        base: The base model; its weights never change.
        vocabulary: The base's vocabulary, the target.
        limits: Limits of steering.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False  # the value sources read text

    def __init__(self, base: LoadedModel, steerings: Sequence[Steering], limits: SteeringLimits | None = None) -> None:
        """Assembles a bridge from its parts; `Bridge.over` makes one from a single value source.

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
        """Bridges one value source onto a base model.

        Args:
            base: The base model, any family.
            source: A value network or an expert pair.
            alignment: From the source's vocabulary to the base's.
            combination: By default `combination.UNFITTED`.
            limits: Limits; by default none.
            **settings: See `SteeringSettings`.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        return cls(base, [Steering.over(base.vocabulary, source, alignment, combination, **settings)], limits)

    @property
    def steerings(self) -> list[Steering]:
        """What steers it."""
        return cast("list[Steering]", list(self._steerings))

    @property
    def steering(self) -> Steering:
        """The steering of a bridge that has one.

        Raises:
            VocabridgeError: It has none or several.
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
        """One forward of the bridge.

        Args:
            input_ids: (batch, n) ids of the base's tokenizer.
            attention_mask: (batch, past + n), 0 for padding; padding is no text.
            position_ids: (batch, n); by default what the base model takes.
            past_key_values: A `BridgeCache` from an earlier call; may also be given as `cache`, as transformers 5.24
                and later call it.
            use_cache: Whether to return a cache; by default as the base's configuration says.
            logits_to_keep: Give logits for the last that many positions only; 0 for all.
            labels: (batch, n) ids to compute the mean cross-entropy on, -100 where there is none.
            return_dict: Whether to return an object, not a tuple; by default as the base's configuration says.
            **kwargs: Passed to the base model, `output_hidden_states` and `output_attentions` among them.

        Returns:
            Logits (batch, k, |T|), float32 unless nothing steers, the cache, and where they are asked for the base's
            hidden states and attentions. Rows that `generate` has finished have zeros everywhere.

        Raises:
            VocabridgeError: There are no `input_ids`; the cache is another model's, or has not read this text from its
                start; or there are two caches.
        """
        if (name := cache_name(kwargs)) is not None:
            if past_key_values is not None:
                raise VocabridgeError(f"past_key_values and {name} are both a cache; give one of them")
            past_key_values = kwargs.pop(name)
        check_is_text(kwargs)
        if input_ids is None:
            raise VocabridgeError("a bridge reads text; give its tokens as input_ids")
        if use_cache is None:
            use_cache = self.config.get_text_config(decoder=True).use_cache
        if past_key_values is None and use_cache:
            past_key_values = BridgeCache(DynamicCache(config=self.config.get_text_config(decoder=True)))
        if past_key_values is not None and not isinstance(past_key_values, BridgeCache):
            raise VocabridgeError(
                f"a bridge cannot use a {type(past_key_values).__name__}; pass a BridgeCache around it, or none and it "
                "makes one"
            )
        batch, rows = len(input_ids), None
        if past_key_values is not None:
            past_key_values.retire()
            rows = past_key_values.rows
        if rows is not None:
            input_ids = input_ids[rows]
            attention_mask = None if attention_mask is None else attention_mask[rows]
            position_ids = None if position_ids is None else position_ids[rows]
        # As a number: a static cache's own is a tensor that counts on in place.
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
        logits = _among(batch, rows, logits)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.vocabulary.size)
        found: dict[str, Any] = {
            "loss": loss,
            "logits": logits,
            CACHE: past_key_values,
            "hidden_states": _all_among(batch, rows, getattr(output, "hidden_states", None)),
            "attentions": _all_among(batch, rows, getattr(output, "attentions", None)),
        }
        result = CausalLMOutputWithPast(**found)
        if return_dict is None:
            return_dict = self.config.return_dict
        return result if return_dict else result.to_tuple()

    @torch.no_grad()
    def _steered(
        self, logits: Tensor, input_ids: Tensor, mask: Tensor | None, cache: BridgeCache | None, past: int
    ) -> Tensor:
        """Return the base's logits (batch, k, |T|) with the changes that the steerings ask for, float32."""
        batch, logits_to_keep, _ = logits.shape
        # Text is read where tokenizers run, so the new ids go to the host once a step: n integers a row.
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

    # The two methods below are transformers' own. No argument of theirs is taken by its name or its place: a cache and
    # stopping criteria are found by their types. `forward` refuses a cache that they did not see.

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Put the cache of any kind that transformers makes for the base into one for all models."""
        super()._prepare_cache_for_generation(*args, **kwargs)  # type: ignore[misc]
        for inputs in [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]:
            name = cache_name(inputs)
            if name is not None and not isinstance(inputs[name], BridgeCache):
                inputs[name] = BridgeCache(inputs[name])

    def _sample(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Do as transformers does, but tell the cache which rows are finished, so that they cost nothing more."""
        cache = kwargs.get(cache_name(kwargs) or "")
        if isinstance(cache, BridgeCache) and len(input_ids) > 1:
            args = tuple(_watched(value, cache) for value in args)
            kwargs = {name: _watched(value, cache) for name, value in kwargs.items()}
        return super()._sample(input_ids, *args, **kwargs)  # type: ignore[arg-type,misc]

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


def _among(batch: int, rows: Tensor | None, values: Tensor) -> Tensor:
    """Values of some rows of a batch, None for all, at these rows; 0 elsewhere."""
    return values if rows is None else values.new_zeros(batch, *values.shape[1:]).index_copy_(0, rows, values)


def _all_among(batch: int, rows: Tensor | None, values: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return None if values is None else tuple(_among(batch, rows, one) for one in values)


def _watched(argument: Any, cache: BridgeCache) -> Any:
    """The same, but stopping criteria whose verdict the cache hears, too."""
    return _Watched(argument, cache) if isinstance(argument, StoppingCriteriaList) else argument


class _Watched(StoppingCriteriaList):
    """Stopping criteria whose verdict a cache hears, too."""

    def __init__(self, criteria: StoppingCriteriaList, cache: BridgeCache) -> None:
        super().__init__(criteria)
        self._cache = cache

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        finished = super().__call__(input_ids, scores, **kwargs)
        self._cache.finish(finished)
        return finished
