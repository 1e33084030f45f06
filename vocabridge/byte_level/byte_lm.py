"""A causal language model as a distribution over the next byte, whatever its tokenizer.

    M(x) = sum over the valid covers t of x of P(t)
    p(b | x) = M(x b) / (sum over b' of M(x b') + control tokens)

A cover t of a text x is a sequence of tokens that spells x, or whose last token reaches beyond x. It is valid if the
tokenizer could write it (`cover_validity`). P(t) is the product of the model's probabilities of the tokens. A control
token has the probability P(t) P(control token | t) after one cover t only, the encoding of x. The probability of
invalid covers is left out, so the 256 bytes and the control tokens are scaled to sum to 1.

A `ByteState` holds the covers of one text. A cover that has been evaluated holds the probabilities of the tokens that
may follow it. The tokens among them that end where the text ends make longer covers. The evaluation of these, which
takes a forward, is deferred until their mass could change the result by more than the *tolerance*. So one number bounds
the error of a distribution: the share of all mass that may be in deferred covers or in tokens whose validity was not
checked. No cover is dropped because it is unlikely. If the text turns out to be an unlikely one, its covers have most
of the mass, and they are evaluated then. At a safe cut, covers that disagree with the tokenizer's encoding are
dropped, because no text continues them.

Sources: Vieira et al., "From Language Models over Tokens to Language Models over Characters", arXiv 2412.03719; Phan
et al., "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles", arXiv
2410.09303, whose covers are those of encodings, as here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from vocabridge.alignment import Place, VocabridgeError, Vocabulary
from vocabridge.alignment.arrays import Float32, Int64
from vocabridge.byte_level.byte_state import ByteState
from vocabridge.byte_level.cover_state import Continuations
from vocabridge.byte_level.cover_validity import INVALID, UNKNOWN, CoverValidity
from vocabridge.decoding.token_tree import ROOT
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.loading import LoadedModel
from vocabridge.models.prompts import Piece
from vocabridge.models.value_source import ValueSource

LogitsOfDistributions: TypeAlias = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
"""Takes the logits (n, |S|) of models by name; returns the logits of k distributions, each (n, |S|)."""

TOLERANCE = 1e-6


class ByteLM:
    """One or several distributions of models with one vocabulary, over the next byte.

    Attributes:
        vocabulary: The models' vocabulary.
        validity: Which tokens may follow which.
        control_ids: The ids of the control tokens, int64 (s,).
        num_distributions: k, the number of distributions.
        tolerance: The share of the mass that may be unevaluated or unchecked at each byte; 0 to leave out nothing.
        forwards: The number of forwards so far.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        models: Mapping[str, nn.Module],
        logits_of: LogitsOfDistributions,
        num_distributions: int,
        *,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Wrap models with one vocabulary; `ByteLM.of` wraps a single model.

        Args:
            vocabulary: As wide as the models' logits.
            models: The models by name, as `joint_forward.run` runs them.
            logits_of: Computes the logits of the distributions from those of the models.
            num_distributions: The number of distributions.
            tolerance: See the class.

        Raises:
            VocabridgeError: The tokenizer changes texts, or the tolerance is out of its range.
        """
        self.set_tolerance(tolerance)
        self.vocabulary = vocabulary
        self.validity = CoverValidity(vocabulary)
        self.control_ids = self.validity.lexicon.control_ids
        self.num_distributions = num_distributions
        self.forwards = 0
        self._models = dict(models)
        self._logits_of = logits_of
        self._order = np.concatenate([self.validity.lexicon.ids, self.control_ids])

    @classmethod
    def of(cls, loaded: LoadedModel, *, tolerance: float = TOLERANCE) -> ByteLM:
        """Wrap one causal language model; its distribution is the only one.

        Args:
            loaded: The model.
            tolerance: The share of the mass that may be left out at each byte, from 0 to below 1.

        Raises:
            VocabridgeError: The tokenizer changes texts, or the tolerance is out of its range.
        """
        models = {"model": loaded.model}
        return cls(loaded.vocabulary, models, lambda logits: [logits["model"]], 1, tolerance=tolerance)

    @classmethod
    def of_value_source(cls, source: ValueSource, names: Sequence[str], *, tolerance: float = TOLERANCE) -> ByteLM:
        """Wrap a value source; there is one distribution for each name.

        Args:
            source: The value source.
            names: The distributions, "tuned" or "untuned", in their order.
            tolerance: The share of the mass that may be left out at each byte, from 0 to below 1.

        Raises:
            VocabridgeError: The tokenizer changes texts, or the tolerance is out of its range.
        """
        models = {name: source.models[name] for name in source.required_models(names)}

        def logits_of(logits: Mapping[str, Tensor]) -> list[Tensor]:
            scores = source.scores(logits)
            return [getattr(scores, name) for name in names]

        return cls(source.vocabulary, models, logits_of, len(names), tolerance=tolerance)

    def set_tolerance(self, tolerance: float) -> None:
        """Set the share of the mass that may be left out at each byte from now on.

        Raises:
            VocabridgeError: The tolerance is not from 0 to below 1.
        """
        if not 0 <= tolerance < 1:
            raise VocabridgeError(f"the tolerance {tolerance} is out of range; give one from 0 to below 1")
        self.tolerance = tolerance

    def text(self, pieces: Sequence[Piece] = ()) -> ByteState:
        """Begin a text.

        Args:
            pieces: The beginning of the text: bytes, and ids of control tokens. `Vocabulary.pieces` splits a string.
        """
        decoder = TreeDecoder(self._models, 1)
        node = decoder.trees[0].add(self.vocabulary.bos_ids)
        return ByteState.begin(self, decoder, node, Place.BEGINNING).after(*pieces)

    def predict(self, decoder: TreeDecoder, nodes: Sequence[int]) -> Float32:
        """Return the probabilities of the lexicon's m tokens and the s control tokens after n nodes, (n, k, m + s).

        At `ROOT`, before any token of a model without a bos token, all tokens have the same probability.
        """
        p = np.full((len(nodes), self.num_distributions, len(self._order)), 1 / self.vocabulary.size, np.float32)
        rows = [row for row, node in enumerate(nodes) if node != ROOT]
        if rows:
            self.forwards += 1
            decoder.read([[nodes[row] for row in rows]])
            logits = self._logits_of(decoder.logits([(0, nodes[row]) for row in rows]))
            order = torch.from_numpy(self._order).to(logits[0].device)
            # One transfer to the CPU a forward, because tokenizers run there.
            p[rows] = torch.stack([scores.softmax(-1)[:, order] for scores in logits], 1).cpu().numpy()
        return p

    def continuations(self, tokens: tuple[int, ...], node: int, p: Float32) -> Continuations:
        """Return the tokens that may follow a cover without pending bytes.

        Args:
            tokens: The cover's tokens after the committed ones.
            node: The node of its last token.
            p: The probabilities after this node, (k, m + s), from `predict`. May be changed in place.
        """
        size = len(self.validity.lexicon.ids)
        continuations = Continuations(node, (0, size), p[:, :size], np.zeros(size, bool), p[:, size:])
        for (low, high), context in self.validity.contexts(tokens):
            status = self.validity.status(context)[low:high]
            continuations.p[:, low:high][:, status == INVALID] = 0
            continuations.checked[low:high] = status != UNKNOWN
        return continuations

    def check(self, tokens: tuple[int, ...], continuations: Continuations, indices: Int64) -> None:
        """Check which of some tokens may follow a cover, and set the probability of those that may not to 0.

        Args:
            tokens: The cover's tokens after the committed ones.
            continuations: The tokens that may follow it; changed in place.
            indices: Lexicon indices of the tokens to check, int64.
        """
        first = continuations.tokens[0]
        indices = indices[~continuations.checked[indices - first]]
        for (low, high), context in self.validity.contexts(tokens) if len(indices) else ():
            of_context = indices[(indices >= low) & (indices < high)]
            self.validity.check(context, of_context)
            invalid = of_context[self.validity.status(context)[of_context] == INVALID]
            continuations.p[:, invalid - first] = 0
        continuations.checked[indices - first] = True
