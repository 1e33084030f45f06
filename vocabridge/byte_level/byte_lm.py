"""A causal language model as a distribution over the next byte, whatever its tokenizer.

    M(x) = sum over the valid covers t of x of P(t),        p(b | x) = M(x b) / (sum over b' of M(x b') + symbols)

A cover (`cover_validity`) is a sequence of tokens that spells x or more, P(t) the product of the model's
probabilities. Each control token is a symbol of its own, P(t) P(symbol | t), behind the one cover t that is x's
encoding. What the model gives to covers that no tokenizer would make is left out, so the 256 bytes and the symbols are
scaled to 1.

A *text* goes on byte by byte. What it knows of x are covers that end within x, each with the bytes of x that its next
token has to begin with (`CoverState`). One that has been read holds the probabilities of the tokens that may come;
those that end where x ends are covers of their own, which *sleep*: they are read when they have a say that matters. So
one number says how exact an answer is, the share of all mass that may be unread or unjudged (`tolerance`), and nothing
is lost for good: a cover too unlikely to be read today is read when the text has turned out to be that unlikely one.
At each place where the tokenizer always cuts, all covers but those that agree with it are dropped, and are rightly so.

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
from vocabridge.byte_level.byte_state import ByteState
from vocabridge.byte_level.cover_state import CoverState, Float32, Read
from vocabridge.byte_level.cover_validity import INVALID, Following
from vocabridge.byte_level.lexicon import Int64
from vocabridge.decoding.token_tree import ROOT
from vocabridge.decoding.tree_decoder import TreeDecoder
from vocabridge.models.loading import LoadedModel
from vocabridge.models.prompts import Piece
from vocabridge.models.value_source import ValueSource

Voices: TypeAlias = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
"""Makes the logits (n, |S|) of models, by name, into those of k distributions, the voices."""

TOLERANCE = 1e-6


class ByteLM:
    """One or several distributions of models with one vocabulary, over bytes and symbols.

    Attributes:
        vocabulary: Theirs.
        following: Which of its tokens may follow which.
        symbols: The ids of control tokens, (s,).
        voices: How many distributions.
        tolerance: The share of the mass that may be left unread or unjudged at each byte; 0 for none.
        beam: At each byte at most so many covers are read, the likeliest; None for no such limit.
        forwards: How many forwards there have been.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        models: Mapping[str, nn.Module],
        make: Voices,
        voices: int,
        *,
        tolerance: float = TOLERANCE,
        beam: int | None = None,
    ) -> None:
        """Looks at models byte by byte; `ByteLM.of` does it for one.

        Args:
            vocabulary: As wide as their logits.
            models: By name, as `joint_forward.run` runs them.
            make: Makes voices of their logits.
            voices: How many.
            tolerance: See above.
            beam: See above.

        Raises:
            VocabridgeError: The tokenizer changes texts, or a setting is out of its range.
        """
        self.limit(tolerance=tolerance, beam=beam)
        self.vocabulary = vocabulary
        self.following = Following(vocabulary)
        self.symbols = self.following.lexicon.symbols
        self.voices = voices
        self.forwards = 0
        self._models = dict(models)
        self._make = make
        self._order = np.concatenate([self.following.lexicon.ids, self.symbols])

    @classmethod
    def of(cls, loaded: LoadedModel, *, tolerance: float = TOLERANCE, beam: int | None = None) -> ByteLM:
        """One causal language model; arguments and errors as above."""
        models = {"model": loaded.model}
        return cls(loaded.vocabulary, models, lambda logits: [logits["model"]], 1, tolerance=tolerance, beam=beam)

    @classmethod
    def of_donors(
        cls,
        source: ValueSource,
        names: Sequence[str],
        *,
        tolerance: float = TOLERANCE,
        beam: int | None = None,
    ) -> ByteLM:
        """Donors of a value source, "tuned" or "untuned", one voice each; arguments and errors as above."""
        models = {name: source.models[name] for name in source.required_models(names)}

        def make(logits: Mapping[str, Tensor]) -> list[Tensor]:
            scores = source.scores(logits)
            return [getattr(scores, name) for name in names]

        return cls(source.vocabulary, models, make, len(names), tolerance=tolerance, beam=beam)

    def limit(self, *, tolerance: float, beam: int | None = None) -> None:
        """Sets how exact it is from now on; arguments and errors as above."""
        if not 0 <= tolerance < 1 or (beam is not None and beam < 1):
            raise VocabridgeError(
                f"cannot read with tolerance {tolerance} and beam {beam}; give a tolerance from 0 to below 1, and a "
                "beam from 1 up"
            )
        self.tolerance = tolerance
        self.beam = beam

    def text(self, pieces: Sequence[Piece] = ()) -> ByteState:
        """Begins a text.

        Args:
            pieces: What it begins with: bytes, and ids of control tokens; `Vocabulary.pieces` cuts a text so.
        """
        forest = TreeDecoder(self._models, 1)
        node = forest.trees[0].add(self.vocabulary.bos_ids)
        root = CoverState((), node, None, np.zeros(self.voices), b"")
        return ByteState(self, forest, node, b"", [root])._open(Place.BEGINNING).after(*pieces)

    def read(self, forest: TreeDecoder, nodes: Sequence[int]) -> Float32:
        """What follows some nodes: the probabilities of the lexicon's tokens and of the symbols, (nodes, k, m + s).

        Before any token, which is where a model is that has no bos token, each token is as likely as another.
        """
        found = np.full((len(nodes), self.voices, len(self._order)), 1 / self.vocabulary.size, np.float32)
        said = [i for i, node in enumerate(nodes) if node != ROOT]
        if said:
            self.forwards += 1
            forest.read([[nodes[i] for i in said]])
            logits = self._make(forest.logits([(0, nodes[i]) for i in said]))
            order = torch.from_numpy(self._order).to(logits[0].device)
            # Once a forward the probabilities go to where tokenizers run.
            found[said] = torch.stack([one.softmax(-1)[:, order] for one in logits], 1).cpu().numpy()
        return found

    def behind(self, tokens: tuple[int, ...], node: int, p: Float32) -> Read:
        """What follows a cover by what `read` says, (k, m + s); what is known to be invalid has none of it.

        Args:
            tokens: The cover's, behind the settled ones.
            node: The place of the last one in the tree.
            p: May be changed.
        """
        size = len(self.following.lexicon.ids)
        read = Read(node, (0, size), p[:, :size], np.zeros(size, bool), p[:, size:])
        for (low, high), context in self.following.parts(tokens):
            known = self.following.known(context)[low:high]
            read.p[:, low:high][:, known == INVALID] = 0
            read.judged[low:high] = known != 0
        return read

    def judge(self, tokens: tuple[int, ...], read: Read, chosen: Int64) -> None:
        """Finds out which of some tokens, by their places in the lexicon, may follow."""
        following, first = self.following, read.run[0]
        chosen = chosen[~read.judged[chosen - first]]
        for (low, high), context in following.parts(tokens) if len(chosen) else ():
            part = chosen[(chosen >= low) & (chosen < high)]
            following.judge(context, part)
            read.p[:, part[following.known(context)[part] == INVALID] - first] = 0
        read.judged[chosen - first] = True
