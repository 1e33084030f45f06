"""Distributions along texts are concatenated, saved and loaded unchanged, and invalid arrays are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vocabridge.alignment import Combined, VocabridgeError, Vocabulary
from vocabridge.alignment.distributions import Distributions

TEXTS = ["naïve café", "", "日本 x"]
OFFSETS = [np.array([0, 4, 7]), np.array([], np.int64), np.array([3])]


@pytest.fixture(scope="module")
def source(vocabularies: dict[str, Vocabulary]) -> Vocabulary:
    return vocabularies["byte_level_bpe"]


@pytest.fixture
def distributions(source) -> Distributions:
    ids = [np.arange(2 * len(o)).reshape(-1, 2) for o in OFFSETS]
    probabilities = [np.tile([0.5, 0.25], (len(o), 1)) for o in OFFSETS]
    return Distributions.of(TEXTS, OFFSETS, ids, probabilities, source=source, model="tiny")


def test_positions_of_every_text_follow_those_of_the_texts_before(distributions):
    first = len(TEXTS[0].encode())
    assert distributions.offsets.tolist() == [0, 4, 7, first + 3]
    assert distributions.ids.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert list(distributions.texts()) == [(TEXTS[0], slice(0, 3)), (TEXTS[1], slice(3, 3)), (TEXTS[2], slice(3, 4))]


def test_saved_distributions_are_loaded_with_the_same_arrays_and_digest(distributions, source, tmp_path):
    distributions.save(tmp_path / "d.safetensors")
    loaded = Distributions.open(tmp_path / "d.safetensors")
    loaded.check(source)
    assert loaded.digest == distributions.digest
    assert (loaded.source, loaded.model) == (source.fingerprint, "tiny")
    for name in ("text", "text_starts", "offsets", "ids", "probabilities"):
        assert np.array_equal(getattr(loaded, name), getattr(distributions, name))


@pytest.mark.parametrize("name", ["text", "text_starts", "offsets", "ids", "probabilities"])
def test_the_digest_depends_on_every_array(distributions, name):
    array = getattr(distributions, name).copy()
    index = {"text_starts": 1, "text": 0}.get(name, -1)
    array[index] = {"text": ord("m"), "text_starts": 10, "probabilities": 0.125}.get(name, array[index] - 1)
    if name == "ids":
        array[-1] = 7
    changed = dataclasses.replace(distributions, **{name: array})
    assert changed.digest != distributions.digest


def test_a_file_with_one_changed_bit_is_refused(distributions, tmp_path):
    path = tmp_path / "d.safetensors"
    distributions.save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(VocabridgeError, match="altered or damaged"):
        Distributions.open(path)


def test_a_file_that_is_missing_truncated_or_of_another_kind_is_refused(distributions, source, tmp_path):
    path = tmp_path / "d.safetensors"
    with pytest.raises(VocabridgeError, match="no such file"):
        Distributions.open(path)
    distributions.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(VocabridgeError, match="not readable as a file of distributions"):
        Distributions.open(path)
    Combined().build(source, source).save(path)
    with pytest.raises(VocabridgeError, match="not a file of distributions"):
        Distributions.open(path)
    save_file(load_file(path), path)
    with pytest.raises(VocabridgeError, match="not a file of distributions"):
        Distributions.open(path)


def test_distributions_of_another_vocabulary_are_refused_by_name(distributions, vocabularies):
    with pytest.raises(VocabridgeError, match=r"of tiny are over another vocabulary .* than unigram"):
        distributions.check(vocabularies["unigram"])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"ids": np.zeros((4, 2))}, "ids is float64 of shape"),
        ({"offsets": np.array([0, 4, 4, 9])}, "offsets do not increase"),
        ({"offsets": np.array([0, 4, 7, 99])}, "offsets do not increase"),
        ({"offsets": np.array([0, 4])}, "2 offsets, ids of shape"),
        ({"ids": np.full((4, 2), -1, np.int32)}, "negative id"),
        ({"probabilities": np.full((4, 2), 0.6, np.float32)}, "sums to more than 1"),
        ({"probabilities": np.full((4, 2), np.nan, np.float32)}, "negative value or NaN"),
        ({"probabilities": np.tile(np.float32([0.1, 0.2]), (4, 1))}, "does not descend"),
        ({"text_starts": np.array([0, 3, 12, 20])}, "not UTF-8"),
        ({"text_starts": np.array([0, 12, 12, 18])}, "text_starts"),
    ],
)
def test_invalid_arrays_are_refused(distributions, changed, problem):
    with pytest.raises(VocabridgeError, match=problem):
        dataclasses.replace(distributions, **changed)


def test_lists_and_shapes_that_do_not_match_are_refused(source):
    zeros = np.zeros((1, 2), np.int32)
    with pytest.raises(VocabridgeError, match="there are 2 texts, 1 arrays of offsets"):
        Distributions.of(["a", "b"], [np.array([0])], [zeros], [zeros], source=source, model="m")
    with pytest.raises(VocabridgeError, match="text 0 has 1 bytes"):
        Distributions.of(["a"], [np.array([1])], [zeros], [zeros], source=source, model="m")
    with pytest.raises(VocabridgeError, match="one shape"):
        Distributions.of(["a"], [np.array([0])], [zeros], [np.zeros((1, 3))], source=source, model="m")
    with pytest.raises(VocabridgeError, match="hold the id 99999"):
        Distributions.of(["a"], [np.array([0])], [zeros + 99999], [zeros], source=source, model="m")
