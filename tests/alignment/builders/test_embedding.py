"""Neighbors by embeddings: tokens that are similar in one model's table are found in another model's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from vocabridge.alignment import IdenticalBytes, TokenKind, VocabridgeError, Vocabulary
from vocabridge.alignment.builders.chain import open_columns, open_rows
from vocabridge.alignment.builders.embedding import Embedding, Search, build_index, nearest, shared_space
from vocabridge.alignment.builders.identical_bytes import exact_partners
from vocabridge.alignment.embedding_table import EmbeddingTable


def rotation(rng: np.random.Generator, dimension: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]


def tables(n: int, dimension: int, seed: int = 0) -> tuple[EmbeddingTable, EmbeddingTable]:
    """Make a table, and the same table rotated, scaled and shifted."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, dimension)) * np.linspace(3, 0.3, dimension)
    rotated = 2.5 * values @ rotation(rng, dimension) + rng.normal(size=dimension)
    return EmbeddingTable.of(values.astype(np.float32)), EmbeddingTable.of(rotated.astype(np.float32))


def recall(neighbors: np.ndarray, true: np.ndarray) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(neighbors.tolist(), true.tolist(), strict=True)]
    return sum(hits) / true.size


def test_every_token_of_a_rotated_table_is_found_by_a_few_shared_tokens():
    left, right = tables(400, 24)
    shared = np.arange(60)
    a, b = shared_space(left, right, shared, shared)
    index = build_index(a, np.arange(400), Search.EXACT)
    near, similarity = nearest(index, b, np.arange(400), 1)
    assert near.ravel().tolist() == list(range(400))
    np.testing.assert_allclose(similarity, 1, atol=1e-3)


def test_tables_of_different_dimensions_have_a_shared_space():
    left, right = tables(300, 24)
    wide = EmbeddingTable.of(np.hstack((right.values, np.random.default_rng(1).normal(size=(300, 8)) * 0.01)))
    a, b = shared_space(left, wide, np.arange(150), np.arange(150))
    assert a(np.arange(3)).shape == b(np.arange(3)).shape == (3, 24)
    near, _ = nearest(build_index(a, np.arange(300), Search.EXACT), b, np.arange(150, 300), 1)
    assert (near.ravel() == np.arange(150, 300)).mean() > 0.95


def test_the_exact_search_returns_the_largest_cosines():
    left, right = tables(500, 16, seed=3)
    a, b = shared_space(left, right, np.arange(50), np.arange(50))
    ids = np.arange(500)
    near, similarity = nearest(build_index(a, ids, Search.EXACT), b, ids, 5)
    cosines = b(ids) @ a(ids).T
    np.testing.assert_allclose(np.sort(cosines, axis=1)[:, :-6:-1], similarity, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, near, 1), similarity, atol=1e-5)


def test_the_approximate_search_finds_most_neighbors():
    # As in real tables, correlations fall from one direction to the next; the coarse search depends on that.
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(12_000, 32))
    sides = [latent @ rotation(rng, 32) + noise * rng.normal(size=latent.shape) for noise in (0.3, 0.4)]
    left, right = (EmbeddingTable.of(side.astype(np.float32)) for side in sides)
    a, b = shared_space(left, right, np.arange(6_000), np.arange(6_000))
    base, queries = np.arange(12_000), np.arange(6_000, 8_000)
    true, _ = nearest(build_index(a, base, Search.EXACT), b, queries, 8)
    index = build_index(a, base, Search.APPROXIMATE)
    assert type(index) is not type(build_index(a, base, Search.EXACT))
    approximate, _ = nearest(index, b, queries, 8)
    assert recall(approximate, true) > 0.9


@pytest.fixture(scope="module")
def pair_with_tables(vocabularies: dict[str, Vocabulary]) -> tuple[Vocabulary, Vocabulary, Embedding]:
    """Return two vocabularies and tables in which tokens of equal bytes differ by noise and a rotation."""
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    rng = np.random.default_rng(0)
    meaning: dict[bytes | None, np.ndarray] = {}
    sides = []
    for vocabulary in (source, target):
        rows = [meaning.setdefault(data, rng.normal(size=12)) for data in vocabulary.token_bytes]
        noisy = np.array(rows) + 0.05 * rng.normal(size=(vocabulary.size, 12))
        sides.append(EmbeddingTable.of(noisy @ rotation(rng, 12)))
    return source, target, Embedding((sides[0], sides[1]), search=Search.EXACT, neighbors=3)


def test_tokens_of_equal_bytes_are_partners_and_all_others_get_neighbors(pair_with_tables):
    source, target, builder = pair_with_tables
    alignment = builder.build(source, target)
    filled = np.diff(alignment.counts.indptr)
    y, w = exact_partners(source, target)
    assert (alignment.counts[y, w] >= 1).all()
    others = open_rows(IdenticalBytes().build(source, target).counts, target)
    assert len(others) > 50
    assert (filled[others] >= 3).all()
    assert (filled[target.usable] > 0).all()
    assert np.isin(source.usable, alignment.counts.indices).all()


def test_unused_and_control_tokens_have_no_rows(pair_with_tables):
    source, target, builder = pair_with_tables
    alignment = builder.build(source, target)
    rows, columns = alignment.counts.tocoo().coords
    roles = [{v.roles[r] for r in ("bos", "eos")} for v in (source, target)]
    control = np.flatnonzero(np.isin(target.kinds, (TokenKind.CONTROL, TokenKind.UNUSED)))
    assert set(rows.tolist()) & set(control.tolist()) == roles[1]
    control = np.flatnonzero(np.isin(source.kinds, (TokenKind.CONTROL, TokenKind.UNUSED)))
    assert set(columns.tolist()) & set(control.tolist()) == roles[0]


def test_only_open_rows_and_columns_are_searched(pair_with_tables):
    source, target, builder = pair_with_tables
    counts = builder._count(source, target, None, lambda done, total: None)
    rows = np.repeat(np.arange(target.size), np.diff(counts.indptr))
    emptied = open_rows(IdenticalBytes().build(source, target).counts, target)[:5]
    counts.data[np.isin(rows, emptied)] = 0
    counts.eliminate_zeros()
    searched: list[int] = []
    builder._fill(counts, source, target, None, lambda done, total: searched.append(total))
    assert open_rows(counts, target).tolist() == emptied.tolist()
    assert set(searched) == {5 + len(open_columns(counts, source))}


def test_the_cache_key_holds_both_tables_and_the_search(pair_with_tables):
    builder = pair_with_tables[2]
    digests = [table.digest for table in builder.embeddings]
    assert builder.parameters == {"embeddings": digests, "search": "exact", "neighbors": 3}
    assert digests[0] != digests[1]
    assert json.dumps(builder.parameters)


def test_the_digest_depends_on_values_shape_and_type():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    changed = values.copy()
    changed[3, 2] += 1
    variants = [values, changed, values.reshape(3, 4), values.astype(np.float64)]
    assert len({EmbeddingTable.of(variant).digest for variant in variants}) == 4
    assert EmbeddingTable.of(values.copy(), "another name").digest == EmbeddingTable.of(values).digest


def bfloat16(path: Path, name: str, values: np.ndarray) -> None:
    """Write a bfloat16 safetensors file: unsigned integers with the same bytes, and the type in the header replaced."""
    data = save({name: (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)})
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"U16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def test_tables_are_read_from_every_kind_of_file(tmp_path):
    values = np.random.default_rng(0).integers(-8, 8, (6, 4)) / 4  # exact in every type
    np.save(tmp_path / "a.npy", values.astype(np.float16))
    save_file({"only": values.astype(np.float32), "norm": np.ones(4)}, tmp_path / "b.safetensors")
    layer = {"model.layers.0.weight": np.zeros((6, 4), np.float32)}
    save_file({"transformer.wte.weight": values.astype(np.float16)} | layer, tmp_path / "c.safetensors")
    bfloat16(tmp_path / "d.safetensors", "model.embed_tokens.weight", values)
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_file(layer, folder / "1.safetensors")
    save_file({"model.embed_tokens.weight": values} | layer, folder / "2.safetensors")
    weights = {"model.layers.0.weight": "1.safetensors", "model.embed_tokens.weight": "2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    for name in ("a.npy", "b.safetensors", "c.safetensors", "d.safetensors", "sharded"):
        table = EmbeddingTable.open(tmp_path / name)
        rows = table.rows(np.array([5, 0]))
        assert rows.dtype == np.float32
        assert rows.tolist() == values[[5, 0]].tolist()


def test_files_that_hold_no_embeddings_are_refused(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(6).reshape(2, 3))
    np.save(tmp_path / "flat.npy", np.zeros(6))
    two = {"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}
    save_file(two, tmp_path / "two.safetensors")
    save_file({"a": np.zeros((2, 2), np.int8)}, tmp_path / "int8.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 5)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "ids.npy").read_bytes()[:20])
    (tmp_path / "nothing.npy").touch()
    (tmp_path / "other.npy").write_bytes(b"no such format" * 9)
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    expected = {
        "ids.npy": "int64 of shape",
        "flat.npy": "float64 of shape",
        "two.safetensors": "no tensors have a usual name of input embeddings",
        "int8.safetensors": "type I8 cannot be read",
        "cut.safetensors": "not readable as embeddings",
        "cut.npy": "not readable as embeddings",
        "nothing.npy": "not readable as embeddings",
        "other.npy": "the magic string is not correct",
        "text.txt": "are read from",
        "empty": "there is none of",
        "missing.npy": "no such file",
    }
    for name, message in expected.items():
        with pytest.raises(VocabridgeError, match=message):
            EmbeddingTable.open(tmp_path / name)


def test_unsuitable_tables_are_refused(pair_with_tables, vocabularies):
    source, target, builder = pair_with_tables
    left, right = builder.embeddings
    short = EmbeddingTable.of(right.values[:10], "short")
    with pytest.raises(VocabridgeError, match="short: 10 rows for the"):
        Embedding((left, short)).build(source, target)
    same = EmbeddingTable.of(np.ones((1000, 8)), "flat")
    with pytest.raises(VocabridgeError, match="flat: the shared tokens' rows are all the same"):
        Embedding((left, same)).build(source, target)
    with pytest.raises(VocabridgeError, match="share 1 tokens"):
        shared_space(left, right, np.array([5]), np.array([5]))
    with pytest.raises(VocabridgeError, match="cannot have 0 neighbors"):
        Embedding((left, right), neighbors=0)


def test_with_more_neighbors_than_tokens_all_tokens_are_neighbors(pair_with_tables):
    source, target, builder = pair_with_tables
    alignment = Embedding(builder.embeddings, neighbors=10_000).build(source, target)
    assert np.diff(alignment.counts.indptr).max() <= source.size
