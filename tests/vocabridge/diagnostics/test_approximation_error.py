"""How far projected predictions are from the exact distribution, on tiny models."""

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


def test_with_one_vocabulary_the_projection_is_exact_but_for_tokens_that_may_not_follow(worlds, tmp_path):
    """The identity projects the model's own distribution, in which tokens that no encoding has keep their mass."""
    world = worlds["byte-level"]
    path = tmp_path / "text.txt"
    path.write_text(
        "the then there aab abab aaab b a it's all'll 12 123 ba bba 1 the then there aab abab aaab the b\n" * 2
    )
    errors = distances(
        world.loaded,
        world.vocabulary,
        {"": identity(world.vocabulary)},
        Corpus.open([path]),
        base=world.loaded,
        positions=6,
        policies=[BoundaryPolicy.AS_IS],
    )[""]
    assert errors.positions == 6
    assert [approximation.method for approximation in errors.approximations] == [
        ProjectionMethod.STATIC,
        ProjectionMethod.INFORMED,
    ]
    for approximation in errors.approximations:
        invalid = np.mean([invalid_mass(world, ids) for ids in prefixes(world, path.read_text(), 6)])
        slack = errors.open + errors.lost + 1e-3
        assert approximation.overall.mean_variation == pytest.approx(invalid, abs=slack)
        assert approximation.overall.mean_kl == pytest.approx(0.0, abs=3)
        assert approximation.inactive == 0


def test_with_one_vocabulary_every_method_projects_a_change_of_logits_exactly(worlds, corpus):
    """Tokens that may not follow are not compared."""
    world = worlds["byte-level"]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        other = LlamaForCausalLM(world.loaded.model.config).eval()
    pair = ExpertPair(replace(world.loaded, model=other), world.loaded)
    compare = partial(distances, pair, world.vocabulary, {"": identity(world.vocabulary)}, corpus, base=world.loaded)
    errors = compare(positions=4, policies=[BoundaryPolicy.AS_IS])[""]
    assert [approximation.method for approximation in errors.approximations] == list(ProjectionMethod)
    assert 0 < errors.mass <= 1
    for approximation in errors.approximations:
        assert approximation.overall.mean_variation <= errors.open + errors.lost + 1e-3, approximation.method
        assert approximation.overall.mean_kl < 0.05
    with pytest.raises(VocabridgeError, match="name a base"):
        distances(pair, world.vocabulary, {"": identity(world.vocabulary)}, corpus)


def identity(vocabulary: Vocabulary) -> Alignment:
    card = VocabularyCard.of(vocabulary)
    return Alignment(sp.csr_array(sp.eye(vocabulary.size), dtype=np.float32), card, card, "by hand", {})


def test_the_change_of_a_value_network_is_compared_by_every_method_under_every_policy(parts, corpus):
    target = parts.base.vocabulary
    source = parts.residual(0.2)
    errors = distances(source, target, {"": parts.alignment}, corpus, base=parts.base, positions=2, tolerance=0.5)[""]
    assert [(approximation.method, approximation.policy) for approximation in errors.approximations] == [
        (method, policy) for method in ProjectionMethod for policy in BoundaryPolicy
    ]
    assert (errors.model, errors.base) == (source.name, parts.base.name)
    assert 0 < errors.mass <= 1
    assert all(0 < approximation.overall.mean_variation <= 1 for approximation in errors.approximations)


def prefixes(world, text: str, count: int) -> list[tuple[int, ...]]:
    """Return the tokens in front of each token that is compared."""
    encoding = world.vocabulary.encode(text)
    candidates = [i for i, start in enumerate(encoding.starts.tolist()) if start >= 100]
    chosen = np.linspace(0, len(candidates) - 1, count).round().astype(int)
    return [tuple(encoding.ids.tolist()[: candidates[k]]) for k in chosen]


def invalid_mass(world, ids: tuple[int, ...]) -> float:
    """Return the probability that the model gives to tokens that may not follow."""
    p = world.p(ids)
    text_ids = [i for i, data in enumerate(world.vocabulary.token_bytes) if data]
    valid = world.valid([(*ids, i) for i in text_ids])
    return 1 - p[text_ids][np.array(valid)].sum()


def test_every_policy_and_method_is_compared_at_the_same_positions(parts, corpus):
    target = parts.base.vocabulary
    compare = partial(distances, parts.small, target, {"": parts.alignment}, corpus, tolerance=0.5)
    errors = compare(base=parts.base, positions=3)[""]
    assert [(approximation.method, approximation.policy) for approximation in errors.approximations] == [
        (method, policy) for method in (ProjectionMethod.STATIC, ProjectionMethod.INFORMED) for policy in BoundaryPolicy
    ]
    for approximation in errors.approximations:
        assert approximation.overall.positions == errors.positions <= 3
        assert sum(part.positions for part in approximation.by_class.values()) == errors.positions
        assert sum(part.positions for part in approximation.by_relation.values()) == errors.positions
        assert approximation.overall.kl == pytest.approx(sum(part.kl for part in approximation.by_relation.values()))
        assert approximation.overall.mean_kl > 0
        assert 0 < approximation.overall.mean_variation <= 1
        # Pinsker: the variation is at most sqrt(KL ln 2 / 2).
        assert approximation.overall.mean_variation <= math.sqrt(approximation.overall.mean_kl * math.log(2) / 2) + 1e-6
    without_base = compare(positions=2, policies=[BoundaryPolicy.HEAL])[""]
    assert [(approximation.method, approximation.policy) for approximation in without_base.approximations] == [
        (ProjectionMethod.STATIC, BoundaryPolicy.HEAL)
    ]
    assert without_base.base is None


def test_another_base_a_short_text_and_a_tokenizer_without_a_byte_exact_view_are_refused(
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
