"""Value sources: small models that say how a distribution should change, z_post = z_base + z_delta.

Two kinds, one interface (`ValueSource`). Both are a pair of small models of one family along the same tokens:

    ValueNetwork   base (frozen) and value:   delta = value,           tuned = base + value, untuned = base
    ContrastPair   untuned and tuned:         delta = tuned - untuned, no training at all

What a value network reads of its base is its `Scheme` (`connection`). Source: Lu et al., "Transferable Post-training
via Inverse Value Learning", arXiv 2410.21027; for the pair Liu et al., "Tuning Language Models by Proxy", arXiv
2401.08565.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.models.joint_forward import input_embeddings
from vocabridge.models.loading import LoadedModel
from vocabridge.scheme import Initialisation, Scheme

if TYPE_CHECKING:
    from vocabridge.projection.lookahead import Ahead

logger = logging.getLogger("vocabridge")


@dataclass(frozen=True)
class Scores:
    """What a value source says at some positions; logits over the source vocabulary, each of one shape (..., |S|).

    Attributes:
        delta: The change of logits, or None where nobody asked.
        tuned: The donor's own logits, delta included, or None.
        untuned: The donor's logits without the delta, or None.
        ahead: What it says after some of its tokens, of the donors that are there; None if nobody asked.
        image: The base's distribution on the source vocabulary, where look-ahead has made it already.
    """

    delta: Tensor | None = None
    tuned: Tensor | None = None
    untuned: Tensor | None = None
    ahead: Ahead | None = None
    image: Tensor | None = None

    @property
    def donors(self) -> list[Tensor]:
        """The tuned and the untuned donor's logits, those that are there."""
        return [logits for logits in (self.tuned, self.untuned) if logits is not None]


class ValueSource(nn.Module, ABC):
    """Two small models of one vocabulary, and the three quantities that come from them.

    Attributes:
        vocabulary: The source vocabulary, as wide as the models' logits.
        models: The models by role; `connection.run` runs them with transformers' arguments.
        name: Where it came from, for people only.
    """

    def __init__(self, vocabulary: Vocabulary, models: Mapping[str, nn.Module], name: str) -> None:
        """Holds the pair."""
        super().__init__()
        self.vocabulary = vocabulary
        self.models = nn.ModuleDict(models)
        self.name = name

    @abstractmethod
    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """The models that have to run for these quantities."""

    @abstractmethod
    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """The quantities that these models' logits, float32 (..., |S|), determine."""


class ContrastPair(ValueSource):
    """A tuned model minus the same model untuned.

    The two have to make the same tokens of any text. Where their control tokens have other roles, those of the tuned
    model hold; rows that only one of them has are cut.

    Attributes:
        tuned_vocabulary: The tuned model's own vocabulary, as wide as its logits.
    """

    def __init__(self, tuned: LoadedModel, untuned: LoadedModel) -> None:
        """Pairs two models.

        Raises:
            VocabridgeError: Their tokenizers differ.
        """
        if tuned.vocabulary.fingerprint != untuned.vocabulary.fingerprint:
            raise VocabridgeError(
                f"{tuned.name} and {untuned.name} have different tokenizers; a contrast pair is one model before and "
                "after tuning"
            )
        self.tuned_vocabulary = tuned.vocabulary
        super().__init__(
            _shared_vocabulary(tuned, untuned),
            {"tuned": tuned.model, "untuned": untuned.model},
            f"{tuned.name} - {untuned.name}",
        )

    @property
    def tuned(self) -> PreTrainedModel:
        """The tuned model."""
        return cast(PreTrainedModel, self.models["tuned"])

    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """See `ValueSource.needed`."""
        return {name for name, wanted in (("tuned", delta or tuned), ("untuned", delta or untuned)) if wanted}

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        size = self.vocabulary.size
        shared = {name: one if one.shape[-1] <= size else one[..., :size] for name, one in logits.items()}
        tuned, untuned = shared.get("tuned"), shared.get("untuned")
        delta = None if tuned is None or untuned is None else tuned - untuned
        return Scores(delta=delta, tuned=tuned, untuned=untuned)


def _shared_vocabulary(tuned: LoadedModel, untuned: LoadedModel) -> Vocabulary:
    """Return the tuned model's vocabulary over the rows that both have; says in a line what differs."""
    own, other = tuned.vocabulary, untuned.vocabulary
    differing = [role for role, i in own.roles.items() if role != "pad" and other.roles.get(role, i) != i]
    if differing:
        logger.info(
            "%s and %s differ in the %s token: that of %s is used.",
            tuned.name,
            untuned.name,
            ", ".join(differing),
            tuned.name,
        )
    vocabulary = own.resized(min(own.size, other.size))
    if lost := [role for role in own.roles if role != "pad" and role not in vocabulary.roles]:
        logger.warning(
            "%s has no %s token, so the one of %s is left out; tune a model whose tokens both have.",
            untuned.name,
            ", ".join(lost),
            tuned.name,
        )
    return vocabulary


class ValueNetwork(ValueSource):
    """A frozen small base and the value network trained on it: z_post = z_base + z_delta.

    Attributes:
        config: What it is.
        adapter: The adapter that was added to the value network's weights, as its file holds it; None where there is
            none, or where it still stands beside them.
    """

    def __init__(
        self,
        base: LoadedModel,
        value: DeltaModel,
        config: ValueNetworkConfig,
        name: str,
        adapter: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Pairs a base with its value network."""
        super().__init__(base.vocabulary, {"base": base.model, "value": value}, name)
        self.config = config
        self.adapter = adapter

    @property
    def base(self) -> PreTrainedModel:
        """The frozen small base."""
        return cast(PreTrainedModel, self.models["base"])

    @property
    def value(self) -> DeltaModel:
        """The value network proper."""
        return cast(DeltaModel, self.models["value"])

    def needed(self, *, delta: bool = False, tuned: bool = False, untuned: bool = False) -> set[str]:
        """See `ValueSource.needed`."""
        value = delta or tuned
        base = tuned or untuned or (value and self.config.scheme.takes_base)
        return {name for name, wanted in (("value", value), ("base", base)) if wanted}

    def scores(self, logits: Mapping[str, Tensor]) -> Scores:
        """See `ValueSource.scores`."""
        delta, untuned = logits.get("value"), logits.get("base")
        tuned = None if delta is None or untuned is None else untuned + delta
        return Scores(delta=delta, tuned=tuned, untuned=untuned)


class DeltaModel(nn.Module):
    """A causal language model whose logits are a change of logits: z_delta = U P h.

    h is the last hidden state of the model's trunk, U its own unembedding, and P a square matrix that starts at
    zero, so that training starts from z_post = z_base exactly, and costs d^2 weights instead of another |S| x d.
    """

    def __init__(self, model: PreTrainedModel, scheme: Scheme = Scheme.RESIDUAL) -> None:
        """Wraps a model; its parameters become the value network's initialisation.

        Args:
            model: A causal language model of width d.
            scheme: What it reads.
        """
        super().__init__()
        self.model = model
        self.scheme = scheme
        width = model.get_output_embeddings().weight.shape[1]
        self.projection = nn.Linear(width, width, bias=False, dtype=torch.float32, device=model.device)
        nn.init.zeros_(self.projection.weight)

    @property
    def takes_logits_of(self) -> str | None:
        """The model of its value source whose logits it is to be given; see `connection.run`."""
        return "base" if self.scheme.takes_base else None

    def inputs(self, input_ids: Tensor, said: Tensor | None, unembed: nn.Module | None = None) -> dict[str, Tensor]:
        """What the trunk reads along some tokens, as an argument of `hidden`.

        Args:
            input_ids: Tokens, (batch, n).
            said: What the base says after each: logits (batch, n, |S|). Only cascades need it.
            unembed: In place of logits, `said` is the base's last hidden states, which this makes into logits.
        """
        if not self.scheme.takes_base:
            return {"input_ids": input_ids}
        assert said is not None, "a cascade reads what its base says"
        embedding = cast(nn.Embedding, self.model.get_input_embeddings())
        return {"inputs_embeds": input_embeddings(self.scheme, embedding, input_ids, said, unembed)}

    def hidden(self, **inputs: Any) -> Tensor:
        """The trunk's last hidden states, (batch, n, d); arguments as transformers' `forward` takes them."""
        return self.model.base_model(**inputs).last_hidden_state

    def unembed(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d) to changes of logits (..., |S|)."""
        head = self.model.get_output_embeddings()
        return head(self.projection(hidden.to(self.projection.weight.dtype)).to(head.weight.dtype))

    def forward(
        self,
        input_ids: Tensor,
        *,
        logits_to_keep: int | Tensor = 0,
        taken_logits: Tensor | None = None,
        use_cache: bool = False,
        **inputs: Any,
    ) -> DeltaOutput:
        """Changes of logits at the last `logits_to_keep` positions (0: all), or at these, (batch, k, |S|).

        A cascade needs `taken_logits`, the base's after each token, (batch, n, |S|). The other arguments, a cache among
        them, are the trunk's.
        """
        hidden = self.hidden(**self.inputs(input_ids, taken_logits), use_cache=use_cache, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return DeltaOutput(logits=self.unembed(hidden[:, kept]))

    @property
    def config(self) -> Any:
        """The trunk's configuration."""
        return self.model.config


@dataclass(frozen=True)
class DeltaOutput:
    """The output of a `DeltaModel`, named as transformers names it.

    Attributes:
        logits: (batch, k, |S|).
    """

    logits: Tensor


@dataclass(frozen=True)
class ValueNetworkConfig:
    """What `value_network.json` holds.

    Attributes:
        base: The small base by name: short name, folder, GGUF file or hub id.
        fingerprint: Fingerprint of the base's vocabulary.
        method: "lora" or "full".
        rank: Rank of the LoRA adapter; None for "full".
        scheme: What it reads.
        layers: It has the first so many layers of the base; None for all.
        initialisation: What it started from.
        training: The recipe and its losses, as recorded by training; for people.
    """

    base: str
    fingerprint: str
    method: str
    rank: int | None = None
    scheme: Scheme = Scheme.RESIDUAL
    layers: int | None = None
    initialisation: Initialisation = Initialisation.PRETRAINED
    training: dict[str, Any] = field(default_factory=dict)
