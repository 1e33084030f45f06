"""The number by which an alignment is judged: what a source model's own predictions cost after the crossing.

    bits per byte = -1 / bytes * sum over target tokens y of log2 q_T(y),    q_T = C @ p_S

beside the model's native cost, the same text in its own tokens. At every target token the source has read the
text so far and nothing else, as when generating. What it says where its own tokens may not end is the policy;
mass that the matrix does not carry, and positions at which the source is silent, go to the target tokens by how
often the alignment has counted them.
"""

from __future__ import annotations

import bisect
import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vocabridge.alignment import Alignment, Corpus, TokenClass, VocabridgeError, Vocabulary, classes_of
from vocabridge.healing import Asked, Healer, covers
from vocabridge.models import LoadedModel
from vocabridge.progress import Progress, unheard
from vocabridge.reader import begin_tokens
from vocabridge.score_look_ahead import FirstTokens, LookAhead, Step
from vocabridge.tree import ROOT, TokenTree
from vocabridge.windows import windows

_AHEAD = 3
"""Source tokens that the look-ahead may follow."""

_FLOOR = 1e-4
"""The share of every distribution that goes to the frequencies, so that nothing is impossible."""


class Policy(enum.Enum):
    """What the source says at a target boundary at which its own token may not end.

    Attributes:
        SKIP: Nothing, where its own distribution would rather run on (`heal` tells) or a character is not whole.
        RETOKENIZE: What it says after the text so far, cut by its own tokenizer as it stands.
        HEAL: All ways to cut the text so far, weighted by its own probabilities (`healing`).
        LOOK_AHEAD: The same, and a token's mass is split knowing what the source says after it (`look_ahead`).
            To generate so takes a further forward for the source tokens that several target tokens continue; to
            score takes none, because the text says which of them matters.
    """

    SKIP = "skip"
    RETOKENIZE = "retokenize"
    HEAL = "heal"
    LOOK_AHEAD = "look-ahead"


class Fit(enum.Enum):
    """How target and source tokens lie in a stretch between two common boundaries.

    Attributes:
        EQUAL: One target token, one source token.
        LONGER: One target token that several source tokens make up.
        SHORTER: Several target tokens inside one source token.
        CROSSED: Several of both.
    """

    EQUAL = "equal"
    LONGER = "target longer"
    SHORTER = "target shorter"
    CROSSED = "crossed"

    @classmethod
    def of(cls, targets: int, sources: int) -> Fit:
        """The fit of so many target tokens with so many source tokens."""
        if targets == 1:
            return cls.EQUAL if sources == 1 else cls.LONGER
        return cls.SHORTER if sources == 1 else cls.CROSSED


@dataclass
class Cost:
    """Bits spent on some part of the text.

    Attributes:
        tokens: Target tokens.
        bytes: Their bytes.
        native: What the same bytes cost in the source's own tokens; a stretch between two common boundaries is
            shared out over its target tokens by their bytes.
        carried: What the target tokens cost after the crossing.
    """

    tokens: int = 0
    bytes: int = 0
    native: float = 0.0
    carried: float = 0.0

    def add(self, length: int, native: float, carried: float) -> None:
        """Count one target token."""
        self.tokens += 1
        self.bytes += length
        self.native += native
        self.carried += carried

    def as_dict(self) -> dict[str, float]:
        """Its JSON form: bits as counted, and what derives from them."""
        return vars(self) | {
            "native_bits_per_byte": self.native_bits_per_byte,
            "bits_per_byte": self.bits_per_byte,
            "loss": self.loss,
        }

    @property
    def native_bits_per_byte(self) -> float:
        """The source's own cost."""
        return self.native / max(1, self.bytes)

    @property
    def bits_per_byte(self) -> float:
        """The cost after the crossing."""
        return self.carried / max(1, self.bytes)

    @property
    def loss(self) -> float:
        """What the crossing adds, relative to the native cost."""
        return self.carried / self.native - 1 if self.native else math.nan


@dataclass
class Carried:
    """What one policy made of one alignment.

    Attributes:
        overall: All target tokens.
        by_class: The same by the class of the target token.
        by_fit: The same by how the tokens of both vocabularies lie.
        silent: Target tokens at which the source said nothing.
    """

    overall: Cost = field(default_factory=Cost)
    by_class: dict[TokenClass, Cost] = field(default_factory=lambda: {c: Cost() for c in TokenClass})
    by_fit: dict[Fit, Cost] = field(default_factory=lambda: {f: Cost() for f in Fit})
    silent: int = 0


@dataclass(frozen=True)
class Score:
    """The score of one alignment on one text.

    Attributes:
        model: The source model by name.
        source: The source vocabulary's name.
        target: The target vocabulary's name.
        method: How the alignment was made.
        positions: Target tokens scored.
        common: Those that start where a source token of the finished text starts.
        policies: By policy.
    """

    model: str
    source: str
    target: str
    method: str
    positions: int
    common: int
    policies: dict[Policy, Carried]

    @property
    def common_share(self) -> float:
        """Share of positions at common boundaries."""
        return self.common / max(1, self.positions)

    @property
    def classes(self) -> list[TokenClass]:
        """The classes of which the text has tokens."""
        return [c for c in TokenClass if any(p.by_class[c].tokens for p in self.policies.values())]

    @property
    def fits(self) -> list[Fit]:
        """The ways to lie of which the text has tokens."""
        return [f for f in Fit if any(p.by_fit[f].tokens for p in self.policies.values())]

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form."""
        return {
            "model": self.model,
            "source": self.source,
            "target": self.target,
            "method": self.method,
            "positions": self.positions,
            "common_share": self.common_share,
            "policies": {
                policy.value: {
                    "overall": carried.overall.as_dict(),
                    "by_class": {c.label: carried.by_class[c].as_dict() for c in self.classes},
                    "by_fit": {f.value: carried.by_fit[f].as_dict() for f in self.fits},
                    "silent": carried.silent,
                }
                for policy, carried in self.policies.items()
            },
        }


@dataclass(frozen=True)
class _Position:
    """A target token of a text, with what the source says about it.

    Attributes:
        token: The target token.
        length: Its bytes.
        native: Bits that the source's own tokens spend on these bytes.
        fit: How the tokens lie here.
        common: Whether a source token of the finished text starts here.
        as_it_stands: The source's distribution after the text so far, (|S|,); None inside a character.
        healed: The healed distribution, (|S|,).
        across: Share of it that comes from tokens that run across the boundary.
        piece: The bytes with which the source's own tokens of the finished text go on here.
        column: The source token that they are or begin with.
        weight: The share of `healed` that this very token has.
        path: What the source says behind it and behind its next few tokens.
    """

    token: int
    length: int
    native: float
    fit: Fit
    common: bool
    as_it_stands: np.ndarray[Any, Any] | None
    healed: np.ndarray[Any, Any]
    across: float
    piece: bytes
    column: int
    weight: float
    path: list[Step]


def score(
    model: LoadedModel,
    target: Vocabulary,
    alignments: Mapping[str, Alignment],
    corpus: Corpus,
    policies: Sequence[Policy] = tuple(Policy),
    progress: Progress = unheard,
) -> dict[str, Score]:
    """Score alignments of one pair of vocabularies on one text; the model reads the text once for all of them.

    Args:
        model: The source model.
        target: The target vocabulary.
        alignments: By a name of your own; each from the model's vocabulary to the target's.
        corpus: The text, one that no alignment was built on.
        policies: Those to compare.
        progress: Told how many bytes are done.

    Raises:
        VocabridgeError: An alignment is for other tokenizers; or the text has no common boundary to start at.
    """
    source = model.vocabulary
    for alignment in alignments.values():
        alignment.check(source=source, target=target)
    classes, first = classes_of(target), FirstTokens(target)
    scorers = {
        name: _Scorer(alignment, classes, LookAhead(alignment, source, target, first))
        for name, alignment in alignments.items()
    }
    results = {name: {policy: Carried() for policy in policies} for name in alignments}
    healer = Healer(source, target)
    positions = common = done = 0
    for window in windows(corpus):
        for position in _positions(model, healer, target, window):
            positions += 1
            common += position.common
            for name, scorer in scorers.items():
                for policy, carried in results[name].items():
                    scorer.count(carried, position, policy)
        done += len(window.encode())
        progress(done, corpus.bytes, "scoring")
    if not positions:
        raise VocabridgeError("the text is too short to score: no place in it where tokens of both vocabularies start")
    return {
        name: Score(model.name, source.name, target.name, alignments[name].method, positions, common, results[name])
        for name in alignments
    }


class _Scorer:
    """Charges positions by one alignment."""

    def __init__(self, alignment: Alignment, classes: np.ndarray[Any, Any], ahead: LookAhead) -> None:
        self._columns = alignment.column_weights
        self._speaking = np.asarray(self._columns.sum(axis=0)).ravel() > 0
        self._ahead = ahead
        self._classes = classes
        # Control tokens too: a text may hold the unknown token, or spell out a special one.
        frequency = np.asarray(alignment.counts.sum(axis=1, dtype=np.float64)).ravel() + 1
        self._frequency = frequency / frequency.sum()

    def count(self, carried: Carried, position: _Position, policy: Policy) -> None:
        """Add what the position costs under a policy."""
        p: np.ndarray[Any, Any] | None = position.healed
        if policy is Policy.RETOKENIZE:
            p = position.as_it_stands
        elif policy is Policy.SKIP:
            p = position.as_it_stands if position.across <= 0.5 else None
        frequency = float(self._frequency[position.token])
        if p is None:
            carried.silent += 1
            q = frequency
        else:
            if policy is Policy.LOOK_AHEAD:
                weight = position.weight if self._speaking[position.column] else 0.0
                q = self._ahead.carried(position.token, p, position.column, weight, position.piece, position.path)
            else:
                part = slice(self._columns.indptr[position.token], self._columns.indptr[position.token + 1])
                q = float(p[self._columns.indices[part]] @ self._columns.data[part])
            q += (1 - float(p[self._speaking].sum())) * frequency
        bits = -math.log2((1 - _FLOOR) * q + _FLOOR * frequency)
        for cost in (
            carried.overall,
            carried.by_class[TokenClass(self._classes[position.token])],
            carried.by_fit[position.fit],
        ):
            cost.add(position.length, position.native, bits)


def _positions(model: LoadedModel, healer: Healer, target: Vocabulary, text: str) -> Iterator[_Position]:
    """Read a text and yield its target tokens, from the second common boundary on."""
    source, data = model.vocabulary, text.encode()
    ours, theirs = source.encode(text), target.encode(text)
    started = theirs.starts >= 0
    tokens, starts = theirs.ids[started].tolist(), theirs.starts[started].tolist()
    own_starts = np.maximum.accumulate(ours.starts).tolist()  # one without a start is with the one before it
    shared = sorted({s for s in starts if s > 0} & set(own_starts))
    if not shared:
        return
    tree = TokenTree()
    begin = tree.add(begin_tokens(source))
    nodes, last = [], begin  # the finished text's own tokens
    for token in ours.ids.tolist():
        last = tree.add([token], last)
        nodes.append(last)
    places = [i for i, start in enumerate(starts) if start >= shared[0]]
    found = covers(source, [data[: starts[i]] for i in places])
    heads = {one.head for several in found for one in several}
    head_nodes = {
        head: tree.add(encoding.ids.tolist(), begin)
        for head, encoding in zip(heads, source.encode_batch([data[:h].decode() for h in heads]), strict=True)
    }
    ends = [[tree.add(one.ids, head_nodes[one.head]) for one in several] for several in found]
    log_p = tree.log_probabilities(model.model)
    own = np.zeros(len(tree.tokens))  # of every node after its parent; a text's first token is given
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        own[node] = 0.0 if parent == ROOT else log_p[parent, token]
    paths = own.copy()
    for node, parent in enumerate(tree.parents):
        paths[node] += 0.0 if parent == ROOT else paths[parent]
    stretches, following = [*shared, len(data)], [*ours.ids.tolist()[1:], -1]
    for i, several, covered in zip(places, found, ends, strict=True):
        place, end = starts[i], starts[i + 1] if i + 1 < len(starts) else len(data)
        asked = {
            node: Asked(cover.pending, float(paths[node]), log_p[node])
            for cover, node in zip(several, covered, strict=True)
            if node != ROOT
        }
        if not asked:  # no cover has a token, nor is there a begin token: nothing to ask the model after
            continue
        healed = healer.heal(list(asked.values()), tokens[i - 1])
        low, high = stretches[(n := bisect.bisect(stretches, place)) - 1], stretches[n]
        inside = nodes[bisect.bisect_left(own_starts, low) : bisect.bisect_left(own_starts, high)]
        theirs_inside = bisect.bisect_left(starts, high) - bisect.bisect_left(starts, low)
        covering = bisect.bisect(own_starts, place) - 1
        node, pending = nodes[covering], data[own_starts[covering] : place]
        chosen = asked.get(tree.parents[node])
        piece = (source.token_bytes[tree.tokens[node]] or b"")[len(pending) :]
        spelled = source.segment(piece)
        known = chosen is not None and chosen.pending == pending and spelled
        yield _Position(
            token=tokens[i],
            length=end - place,
            native=-float(own[inside].sum()) / math.log(2) * (end - place) / (high - low),
            fit=Fit.of(theirs_inside, len(inside)),
            common=not pending,
            as_it_stands=None if several[0].pending or covered[0] == ROOT else np.exp(asked[covered[0]].log_p),
            healed=healed.p,
            across=healed.across,
            piece=piece,
            column=(*spelled, 0)[0],
            weight=healer.share(healed, chosen, tree.tokens[node], tokens[i - 1]) if known and chosen else 0.0,
            path=[(log_p[nodes[k]], following[k]) for k in range(covering, min(covering + _AHEAD + 1, len(nodes)))],
        )
