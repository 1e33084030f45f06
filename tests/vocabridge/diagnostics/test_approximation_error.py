"""How far approximations are from the truth, on tiny models."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from transformers import LlamaForCausalLM

from vocabridge.alignment import Alignment, Corpus, VocabridgeError, Vocabulary, VocabularyCard
from vocabridge.diagnostics.approximation_error import distances
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.options import BoundaryPolicy, ProjectionMethod

LINE = "The quick brown fox jumps over the lazy dog, and 12 other foxes watch the 345 dogs sleep.\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LINE * 4)
    return Corpus.open([path])


def test_of_one_vocabulary_what_is_projected_is_the_truth_but_for_tokens_that_may_not_follow(worlds, tmp_path):
    """The identity methods the model's own distribution, in which some tokens that no encoding has are left."""
    world = worlds["byte-level"]
    path = tmp_path / "text.txt"
    path.write_text(
        "the then there aab abab aaab b a it's all'll 12 123 ba bba 1 the then there aab abab aaab the b\n" * 2
    )
    found = distances(
        world.loaded,
        world.vocabulary,
        {"": of_itself(world.vocabulary)},
        Corpus.open([path]),
        base=world.loaded,
        positions=6,
        policies=[BoundaryPolicy.AS_IS],
    )[""]
    assert found.positions == 6
    assert [one.method for one in found.approximations] == [ProjectionMethod.STATIC, ProjectionMethod.INFORMED]
    for one in found.approximations:
        left = np.mean([left_out(world, i) for i in positions(world, path.read_text(), 6)])
        slack = found.open + found.lost + 1e-3
        assert one.overall.mean_variation == pytest.approx(left, abs=slack)
        assert one.overall.mean_kl == pytest.approx(0.0, abs=3)
        assert one.silent == 0


def test_of_one_vocabulary_a_change_of_logits_is_projected_as_it_is_by_every_method(worlds, corpus):
    """The identity adds the change; the truth has it but for tokens that may not follow, which are not compared."""
    world = worlds["byte-level"]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        other = LlamaForCausalLM(world.loaded.model.config).eval()
    pair = ExpertPair(replace(world.loaded, model=other), world.loaded)
    one = partial(distances, pair, world.vocabulary, {"": of_itself(world.vocabulary)}, corpus, base=world.loaded)
    found = one(positions=4, policies=[BoundaryPolicy.AS_IS])[""]
    assert [one.method for one in found.approximations] == list(ProjectionMethod)
    assert 0 < found.mass <= 1
    for one in found.approximations:
        assert one.overall.mean_variation <= found.open + found.lost + 1e-3, one.method
        assert one.overall.mean_kl < 0.05
    with pytest.raises(VocabridgeError, match="name a base"):
        distances(pair, world.vocabulary, {"": of_itself(world.vocabulary)}, corpus)


def of_itself(vocabulary: Vocabulary) -> Alignment:
    """The identity."""
    card = VocabularyCard.of(vocabulary)
    return Alignment(sp.csr_array(sp.eye(vocabulary.size), dtype=np.float32), card, card, "by hand", {})


def test_the_change_of_a_value_network_is_compared_by_every_method_under_every_policy(parts, corpus):
    target = parts.base.vocabulary
    source = parts.residual(0.2)
    found = distances(source, target, {"": parts.alignment}, corpus, base=parts.base, positions=2, tolerance=0.5)[""]
    assert [(one.method, one.policy) for one in found.approximations] == [
        (method, policy) for method in ProjectionMethod for policy in BoundaryPolicy
    ]
    assert (found.model, found.base) == (source.name, parts.base.name)
    assert 0 < found.mass <= 1
    assert all(0 < one.overall.mean_variation <= 1 for one in found.approximations)


def positions(world, text: str, count: int) -> list[tuple[int, ...]]:
    """The tokens in front of those that are compared."""
    encoding = world.vocabulary.encode(text)
    there = [i for i, start in enumerate(encoding.starts.tolist()) if start >= 100]
    return [tuple(encoding.ids.tolist()[: there[k]]) for k in np.linspace(0, len(there) - 1, count).round().astype(int)]


def left_out(world, before: tuple[int, ...]) -> float:
    """What the model gives to tokens that may not follow; no more than a word of what is in front matters."""
    p = world.p(before)
    spelled = [i for i, data in enumerate(world.vocabulary.token_bytes) if data]
    valid = world.valid([(*before, i) for i in spelled])
    return 1 - p[spelled][np.array(valid)].sum()


def test_every_policy_and_method_is_compared_at_the_same_positions(parts, corpus):
    target = parts.base.vocabulary
    rough = partial(distances, parts.small, target, {"": parts.alignment}, corpus, tolerance=0.5)
    found = rough(base=parts.base, positions=3)[""]
    assert [(one.method, one.policy) for one in found.approximations] == [
        (method, policy) for method in (ProjectionMethod.STATIC, ProjectionMethod.INFORMED) for policy in BoundaryPolicy
    ]
    for one in found.approximations:
        assert one.overall.positions == found.positions <= 3
        assert sum(part.positions for part in one.by_class.values()) == found.positions
        assert sum(part.positions for part in one.by_fit.values()) == found.positions
        assert one.overall.kl == pytest.approx(sum(part.kl for part in one.by_fit.values()))
        assert one.overall.mean_kl > 0
        assert 0 < one.overall.mean_variation <= 1
        # Pinsker: the variation is at most sqrt(KL ln 2 / 2).
        assert one.overall.mean_variation <= math.sqrt(one.overall.mean_kl * math.log(2) / 2) + 1e-6
    without = rough(positions=2, policies=[BoundaryPolicy.HEAL])[""]
    assert [(one.method, one.policy) for one in without.approximations] == [
        (ProjectionMethod.STATIC, BoundaryPolicy.HEAL)
    ]
    assert without.base is None


def test_another_base_a_short_text_and_a_tokenizer_without_an_exact_view_are_refused(
    parts, corpus, vocabularies, tmp_path
):
    alignments = {"": parts.alignment}
    with pytest.raises(VocabridgeError, match="name a base with this one"):
        distances(parts.small, parts.base.vocabulary, alignments, corpus, base=parts.small)
    path = tmp_path / "short.txt"
    path.write_text("The quick fox")
    with pytest.raises(VocabridgeError, match="give more text"):
        distances(parts.small, parts.base.vocabulary, alignments, Corpus.open([path]))
    lossy = replace(parts.small, vocabulary=vocabularies["wordpiece"])
    with pytest.raises(VocabridgeError, match="lower-cases"):
        distances(lossy, parts.base.vocabulary, alignments, corpus)
