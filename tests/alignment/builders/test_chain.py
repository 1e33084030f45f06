"""Chains fill open rows and columns and hardly change covered ones; builders are made by name from their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp

from vocabridge.alignment import (
    Builder,
    Chain,
    Combined,
    Cooccurrence,
    Corpus,
    Distributions,
    Embedding,
    EmbeddingTable,
    Expected,
    IdenticalBytes,
    Reads,
    Retokenize,
    VocabridgeError,
    Vocabulary,
    align,
    make_builder,
)
from vocabridge.alignment.builders.base import occurrence
from vocabridge.alignment.builders.chain import open_columns, open_rows


@dataclass(frozen=True)
class Fixed(Builder):
    """A builder that returns given counts."""

    method: ClassVar[str] = "fixed"
    counts: sp.csr_array

    def _count(self, source, target, corpus, progress) -> sp.csr_array:
        return self.counts


@dataclass(frozen=True)
class Filler(Fixed):
    """The same builder under another name."""

    method: ClassVar[str] = "filler"


@pytest.fixture
def corpus(tmp_path, text) -> Corpus:
    (tmp_path / "corpus.txt").write_text(text[:300], encoding="utf-8")
    return Corpus.open([tmp_path / "corpus.txt"])


def counted(builder: Builder, source: Vocabulary, target: Vocabulary, corpus: Corpus | None = None) -> sp.csr_array:
    return builder._count(source, target, corpus, lambda done, total: None)


def test_a_chain_fills_every_open_row_and_column(pair, corpus):
    source, target = pair
    first = counted(Cooccurrence(), source, target, corpus)
    assert len(open_rows(first, target)) > 0
    chained = counted(Chain((Cooccurrence(), Retokenize())), source, target, corpus)
    assert len(open_rows(chained, target)) == len(open_columns(chained, source)) == 0


def test_the_counts_of_the_first_builder_are_unchanged(pair, corpus):
    source, target = pair
    first = counted(Cooccurrence(), source, target, corpus)
    chained = counted(Chain((Cooccurrence(), Retokenize())), source, target, corpus)
    rows, columns = first.tocoo().coords
    np.testing.assert_array_equal(chained[rows, columns], first.data)
    added = (chained - first).tocoo()
    added_rows, added_columns = added.coords[0][added.data != 0], added.coords[1][added.data != 0]
    is_open = np.isin(added_rows, open_rows(first, target)) | np.isin(added_columns, open_columns(first, source))
    assert is_open.all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("density", "scale"), [(0.02, 50.0), (0.3, 0.01)])
def test_a_covered_column_gains_at_most_one_occurrence_and_a_filled_row_has_the_weights_of_its_builder(
    vocabularies, seed, density, scale
):
    source, target = vocabularies["unigram"], vocabularies["sentencepiece_bpe"]
    rng = np.random.default_rng(seed)
    shape = (target.size, source.size)
    first = sp.csr_array(sp.random_array(shape, density=0.002, rng=rng) * 9)
    second = sp.csr_array(sp.random_array(shape, density=density, rng=rng) * scale)
    chained = counted(Chain((Fixed(first), Filler(second))), source, target).toarray()
    rows, columns = open_rows(first, target), open_columns(first, source)
    covered_rows, covered = np.setdiff1d(target.usable, rows), np.setdiff1d(source.usable, columns)
    assert min(map(len, (rows, columns, covered_rows, covered))) > 20
    for axis, ids in ((0, covered), (1, covered_rows)):
        before, after = np.asarray(first.sum(axis=axis))[ids], chained.sum(axis=axis)[ids]
        assert (after <= before + 1 + 1e-9).all()
        assert (after > before + 0.01).any()
    for y in rows:  # within covered columns, a filled row is proportional to the filler's
        filled, expected = chained[y, covered], second[[y]].toarray().ravel()[covered]
        if expected.sum() > 0:
            np.testing.assert_allclose(filled / filled.sum(), expected / expected.sum(), atol=1e-9)


def test_ids_that_never_occur_are_filled_with_the_least_count(vocabularies):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    empty = sp.csr_array((target.size, source.size), dtype=np.float64)
    chained = counted(Chain((Fixed(empty), Retokenize())), source, target)
    duplicates = target.usable[occurrence(target)[target.usable] < 1]
    assert len(duplicates) > 0
    assert (np.asarray(chained[duplicates].sum(axis=1)) < 1e-3).all()
    assert (np.diff(chained.indptr)[duplicates] > 0).all()


def test_a_third_builder_fills_the_rows_that_the_second_left_open(vocabularies):
    source, target = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    first = sp.csr_array(([1.0], ([target.usable[0]], [source.usable[0]])), shape=(target.size, source.size))
    second = sp.csr_array(([1.0], ([target.usable[1]], [source.usable[1]])), shape=(target.size, source.size))
    chained = counted(Chain((Fixed(first), Filler(second), Retokenize())), source, target)
    alone = counted(Retokenize(), source, target)
    assert chained[target.usable[1], source.usable[1]] == 2  # open on both sides, filled from both
    assert alone[target.usable[1], source.usable[1]] == 0
    assert len(open_rows(chained, target)) == len(open_rows(alone, target))


def test_a_chain_records_every_builder_and_needs_a_corpus_if_one_of_them_does(vocabularies, corpus):
    source, target = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    alignment = align(source, target, method="cooccurrence,retokenize", corpus=corpus)
    assert alignment.method == "cooccurrence,retokenize"
    assert alignment.parameters == {"cooccurrence": {}, "retokenize": {}}
    assert alignment.corpus == corpus.card
    assert make_builder("identical-bytes,retokenize").reads is Reads.NOTHING
    assert make_builder("identical-bytes,default").reads is Reads.IF_GIVEN
    assert make_builder("identical-bytes, cooccurrence").reads is Reads.ALWAYS
    with pytest.raises(VocabridgeError, match="identical-bytes,retokenize reads no text"):
        align(source, target, method="identical-bytes,retokenize", corpus=corpus)
    with pytest.raises(VocabridgeError, match="cooccurrence,identical-bytes counts on text"):
        align(source, target, method="cooccurrence,identical-bytes")


def test_the_roles_are_pinned_at_the_end_of_a_chain(pair, corpus):
    source, target = pair
    counts = make_builder("cooccurrence,retokenize").build(source, target, corpus).counts
    for role in ("bos", "eos"):
        assert counts[[target.roles[role]]].indices.tolist() == [source.roles[role]]


@pytest.fixture
def inputs(vocabularies, tmp_path) -> dict[str, object]:
    """Return files of embeddings and distributions for unigram -> byte_level_bpe."""
    rng = np.random.default_rng(0)
    source, target = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    paths = []
    for name, vocabulary in (("s", source), ("t", target)):
        paths.append(tmp_path / f"{name}.npy")
        np.save(paths[-1], rng.normal(size=(vocabulary.size, 8)).astype(np.float32))
    encoding = source.encode("The quick brown fox")
    distributions = Distributions.of(
        ["The quick brown fox"],
        [encoding.starts],
        [encoding.ids[:, None]],
        [np.ones((len(encoding.ids), 1))],
        source=source,
        model="m",
    )
    distributions.save(tmp_path / "d.safetensors")
    return {"embeddings": tuple(paths), "distributions": tmp_path / "d.safetensors"}


def test_inputs_are_given_as_files_or_objects_and_recorded_by_digest(vocabularies, inputs):
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    tables = tuple(EmbeddingTable.open(path) for path in inputs["embeddings"])
    distributions = Distributions.open(inputs["distributions"])
    by_file = align(*pair, method="expected,embedding", **inputs)
    by_object = align(*pair, method="expected,embedding", embeddings=tables, distributions=distributions, cache=False)
    assert (by_file.counts != by_object.counts).nnz == 0
    assert by_file.parameters == by_object.parameters
    assert by_file.parameters["embedding"]["embeddings"] == [table.digest for table in tables]
    assert by_file.parameters["expected"]["distributions"] == distributions.digest


def test_the_cache_distinguishes_embeddings(vocabularies, inputs):
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    before = align(*pair, method="embedding", embeddings=inputs["embeddings"])
    path = inputs["embeddings"][0]
    np.save(path, -np.load(path)[::-1])
    after = align(*pair, method="embedding", embeddings=inputs["embeddings"])
    assert (before.counts != after.counts).nnz > 0


def test_builders_are_made_by_name(inputs):
    tables = tuple(EmbeddingTable.open(path) for path in inputs["embeddings"])
    distributions = Distributions.open(inputs["distributions"])
    assert make_builder("default") == Combined()
    assert make_builder("identical-bytes,retokenize") == Chain((IdenticalBytes(), Retokenize()))
    assert make_builder("embedding", embeddings=tables) == Embedding(tables)
    assert make_builder("expected", distributions=distributions) == Expected(distributions)


@pytest.mark.parametrize(
    ("method", "given_inputs", "expected"),
    [
        ("fuzzy", (), "no method 'fuzzy'; choose one of default, identical-bytes"),
        ("identical-bytes,fuzzy", (), "no method 'fuzzy'"),
        ("identical-bytes,,retokenize", (), "no method ''"),
        (
            "identical-bytes,identical-bytes",
            (),
            "the method identical-bytes is in the chain identical-bytes,identical-bytes twice",
        ),
        ("embedding", (), "the method embedding needs embeddings; give"),
        ("default,expected", (), "the method expected needs distributions; give"),
        ("identical-bytes", ("embeddings",), "the method identical-bytes takes no embeddings; leave them out"),
        ("embedding", ("embeddings", "distributions"), "the method embedding takes no distributions"),
    ],
)
def test_a_wrong_name_and_unsuitable_inputs_are_errors(vocabularies, inputs, method, given_inputs, expected):
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    with pytest.raises(VocabridgeError, match=expected):
        align(*pair, method=method, **{name: inputs[name] for name in given_inputs})


def test_a_builder_object_takes_no_further_inputs(vocabularies, inputs):
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    with pytest.raises(VocabridgeError, match="the builder identical-bytes already holds its inputs; give them"):
        align(*pair, method=IdenticalBytes(), embeddings=inputs["embeddings"])
