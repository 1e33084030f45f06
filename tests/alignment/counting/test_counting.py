"""Counting over text: the result does not depend on processes and shards, nor memory on the length of the text."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections import Counter

import numpy as np
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import (
    METHODS,
    Alignment,
    Corpus,
    CountingBuilder,
    IdenticalBytes,
    PairCounts,
    PartialCounts,
    Shard,
    VocabridgeError,
    Vocabulary,
    align,
    align_pairs,
    count_shard,
    count_texts,
    merge_shards,
    short_names,
)
from vocabridge.alignment.counting.pair_counts import RunningSum
from vocabridge.alignment.counting.workers import Work

relaxed = settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])

COUNTING = {name: method() for name, method in METHODS.items() if issubclass(method, CountingBuilder)}

keys = st.lists(st.integers(0, 3 * 5 - 1), max_size=30)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, text) -> Corpus:
    """Return a corpus of 37 small files, hence 37 pieces, each different."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(37):
        (folder / f"{number:02}.txt").write_text(f"{text[number * 9 :]} file {number}", encoding="utf-8")
    return Corpus.open([folder])


@pytest.fixture
def pair(vocabularies) -> tuple[Vocabulary, Vocabulary]:
    return vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]


@pytest.fixture(params=COUNTING)
def builder(request) -> CountingBuilder:
    return COUNTING[request.param]


def same(first: Alignment, second: Alignment) -> bool:
    """Whether two alignments are equal to the last bit, with their provenance."""
    arrays = ("indptr", "indices", "data")
    facts = ("source", "target", "method", "parameters", "corpus", "version")
    return all(
        getattr(first.counts, name).tobytes() == getattr(second.counts, name).tobytes() for name in arrays
    ) and all(getattr(first, name) == getattr(second, name) for name in facts)


def as_dict(counts: PairCounts) -> dict[int, int]:
    assert (np.diff(counts.keys) > 0).all()
    return dict(zip(counts.keys.tolist(), counts.counts.tolist(), strict=True))


@relaxed
@given(parts=st.lists(keys, max_size=6))
def test_counts_of_parts_add_up_in_any_grouping(parts):
    counted = [PairCounts.of(np.array(part, np.int64)) for part in parts]
    expected = dict(Counter(itertools.chain(*parts)))
    running = RunningSum()
    for part in counted:
        running.add(part)
    assert as_dict(PairCounts.total(counted)) == expected
    assert as_dict(sum(counted, PairCounts())) == expected
    assert as_dict(running.total()) == expected
    assert as_dict(running.total()) == expected


def test_a_running_sum_merges_before_many_keys_are_pending(monkeypatch):
    from vocabridge.alignment.counting import pair_counts

    monkeypatch.setattr(pair_counts, "_PENDING_KEYS", 10)
    running = RunningSum()
    for _ in range(100):
        running.add(PairCounts.of(np.arange(7)))
        assert len(running._parts) <= 3
    assert as_dict(running.total()) == dict.fromkeys(range(7), 100)


def test_counts_are_exact_where_floats_are_not():
    big = PairCounts(np.array([3]), np.array([2**53]))
    assert as_dict(big + PairCounts.of(np.array([3]))) == {3: 2**53 + 1}


@relaxed
@given(keys=keys)
def test_transposed_counts_are_the_transposed_matrix(vocabularies, keys):
    source, target = vocabularies["unigram"], vocabularies["wordpiece"]
    counts = PairCounts.of(np.array(keys, np.int64) * 1009 % (source.size * target.size))
    transposed = counts.transposed(source, target)
    assert (transposed.matrix(target, source) != counts.matrix(source, target).T.tocsr()).nnz == 0
    assert as_dict(transposed.transposed(target, source)) == as_dict(counts)


def test_the_alignment_is_the_same_in_any_number_of_processes(builder, pair, corpus):
    one_process = align(*pair, method=builder, corpus=corpus, cache=False)
    assert one_process.counts.nnz > 100
    assert same(align(*pair, method=builder, corpus=corpus, cache=False, jobs=3), one_process)


def test_progress_of_several_processes_ends_at_the_total(pair, corpus):
    reported: list[tuple[int, int]] = []
    align(*pair, corpus=corpus, cache=False, jobs=2, progress=lambda done, total: reported.append((done, total)))
    assert reported == sorted(reported)
    assert reported[-1] == (corpus.bytes, corpus.bytes)


def test_an_error_in_a_process_is_raised_unchanged_and_ends_the_others(pair, corpus, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(VocabridgeError, match=r"bad\.txt: not UTF-8 text at byte 0"):
        align(*pair, corpus=[*corpus.files, tmp_path / "bad.txt"], jobs=2)
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_an_error_that_says_what_to_do(pair, corpus):
    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while not (children := multiprocessing.active_children()) and time.monotonic() < deadline:
            time.sleep(0.001)
        children[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(VocabridgeError, match=r"ended before it was done \(exit status -9\).*fewer jobs"):
        align(*pair, corpus=corpus, jobs=2)
    killer.join()
    assert multiprocessing.active_children() == []


def test_less_than_one_process_is_an_error(pair, corpus):
    with pytest.raises(VocabridgeError, match="number of jobs is 0; take 1 or more"):
        align(*pair, corpus=corpus, jobs=0)


@pytest.mark.parametrize("of", [1, 2, 5, 50])
def test_merged_shards_equal_the_unsharded_alignment(builder, pair, corpus, tmp_path, of):
    files = []
    for index in reversed(range(1, of + 1)):
        files.append(tmp_path / f"{index}.safetensors")
        count_shard(builder, *pair, corpus, Shard(index, of)).save(files[-1])
    merged = merge_shards(files, source=pair[0], target=pair[1])
    assert same(merged, align(*pair, method=builder, corpus=corpus, cache=False))


def test_a_merged_alignment_has_the_names_in_the_shards(pair, corpus, tmp_path):
    count_shard(COUNTING["cooccurrence"], *pair, corpus, Shard()).save(tmp_path / "s")
    renamed = [Vocabulary.from_tokenizer(v.tokenizer, name="moved", roles=v.roles) for v in pair]
    merged = merge_shards([tmp_path / "s"], source=renamed[0], target=renamed[1])
    assert (merged.source.name, merged.target.name) == (pair[0].name, pair[1].name)


@pytest.fixture
def shards(pair, corpus, tmp_path):
    """Return a function that writes shards, by default of this pair and corpus."""
    numbers = itertools.count()

    def write(*shards: str, method="default", source=pair[0], target=pair[1], corpus=corpus):
        files = []
        for shard in shards:
            files.append(tmp_path / f"shard{next(numbers)}")
            count_shard(COUNTING[method], source, target, corpus, Shard.parse(shard)).save(files[-1])
        return files

    return write


def test_a_shard_that_is_missing_or_given_twice_is_named(shards):
    with pytest.raises(VocabridgeError, match=r"of 4 shards these are missing: 1/4, 3/4; count them too"):
        merge_shards(shards("2/4", "4/4"))
    with pytest.raises(VocabridgeError, match=r"shard4: shard 1/2 is there twice, also as .*shard3"):
        merge_shards(shards("2/2", "1/2", "1/2"))
    with pytest.raises(VocabridgeError, match="no shard to merge"):
        merge_shards([])


def test_a_shard_of_another_build_is_refused_and_the_difference_named(shards, vocabularies, tmp_path):
    first = shards("1/2")
    other = tmp_path / "other.txt"
    other.write_text("another corpus")
    foreign = {
        "source tokenizer": shards("2/2", source=vocabularies["unigram"]),
        "target tokenizer": shards("2/2", target=vocabularies["unigram"]),
        "method": shards("2/2", method="cooccurrence"),
        "corpus": shards("2/2", corpus=Corpus.open([other])),
        "number of shards": shards("2/3"),
    }
    for what, files in foreign.items():
        with pytest.raises(VocabridgeError, match=rf"{files[0].name}: of another build than .*the {what} differs"):
            merge_shards([*first, *files])


def test_shards_are_merged_with_their_own_tokenizers_only(shards, pair, vocabularies):
    source = Vocabulary.from_tokenizer(pair[0].tokenizer, name="gone/tokenizer.json", roles=pair[0].roles)
    files = shards("1/1", source=source)
    with pytest.raises(VocabridgeError, match=r"source tokenizer, gone/tokenizer\.json, cannot be loaded \(.*--source"):
        merge_shards(files)
    with pytest.raises(VocabridgeError, match=r"target tokenizer sentencepiece_bpe .*, not unigram .*--target"):
        merge_shards(files, source=pair[0], target=vocabularies["unigram"])


def test_tokenizers_are_loaded_by_the_names_in_the_shards(tokenizer_folders, corpus, tmp_path):
    source, target = Vocabulary.load(tokenizer_folders.source, size=500), Vocabulary.load(tokenizer_folders.target)
    count_shard(COUNTING["default"], source, target, corpus, Shard()).save(tmp_path / "s")
    assert same(merge_shards([tmp_path / "s"]), align(source, target, corpus=corpus, cache=False))


@pytest.mark.parametrize("place", [-1, -400, 500])
def test_an_altered_shard_is_refused(shards, place):
    (file,) = shards("1/1")
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(VocabridgeError, match=r"shard0: .*count it again with `vocabridge align --shard`"):
        PartialCounts.load(file)


def test_a_method_whose_counts_do_not_add_up_has_no_shards(pair, corpus):
    with pytest.raises(
        VocabridgeError, match=r"method identical-bytes cannot be counted in shards; these can: .*cooccurrence"
    ):
        count_shard(IdenticalBytes(), *pair, corpus, Shard())


def test_any_iterable_of_texts_can_be_counted_in_parts(builder, pair, corpus):
    """`datasets` or another framework can count in this way, with many workers."""
    parts = [count_texts(builder, *pair, corpus.chunks(Shard(index, 3))) for index in (1, 2, 3)]
    alignment = builder.finish(PairCounts.total(parts), *pair, corpus.card)
    assert same(alignment, align(*pair, method=builder, corpus=corpus, cache=False))


def test_no_text_at_all_counts_nothing(pair):
    assert as_dict(count_texts(COUNTING["cooccurrence"], *pair, [])) == {}


def test_texts_are_read_lazily(pair):
    """Only a few batches are in memory, however many texts there are."""
    read = counted = most_pending = 0

    def texts():
        nonlocal read, most_pending
        for _ in range(400):
            read += 1
            most_pending = max(most_pending, read - counted)
            yield "x"

    def report(text_bytes: int) -> None:
        nonlocal counted
        counted += text_bytes

    Work(COUNTING["cooccurrence"], pair).count(texts(), report)
    assert counted == read == 400
    assert most_pending <= 4 * 16


@relaxed
@given(texts=st.lists(st.text("ab é日1 \n", min_size=1, max_size=60), min_size=1, max_size=4))
def test_symmetric_counting_is_symmetric(vocabularies, texts):
    for builder in COUNTING.values():
        for source, target in itertools.combinations(vocabularies.values(), 2):
            if builder.symmetric:
                forward = count_texts(builder, source, target, texts)
                backward = count_texts(builder, target, source, texts)
                assert as_dict(backward) == as_dict(forward.transposed(source, target))


@pytest.mark.parametrize("method", sorted({*COUNTING, "identical-bytes", "retokenize", "cooccurrence,retokenize"}))
def test_each_of_all_pairs_is_the_alignment_of_align(vocabularies, corpus, method):
    from vocabridge.alignment import make_builder

    builder = make_builder(method)
    three = [vocabularies[kind] for kind in ("byte_level_bpe", "unigram", "sentencepiece_bpe")]
    text = None if method in ("identical-bytes", "retokenize") else corpus
    built = list(align_pairs(builder, three, text))
    assert [(pair.source, pair.target) for pair in built] == list(itertools.permutations(range(3), 2))
    for pair in built:
        expected = align(three[pair.source], three[pair.target], method=builder, corpus=text, cache=False)
        assert same(pair.alignment, expected)
        assert pair.seconds > 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_pairs_in_processes_are_the_same(vocabularies, corpus, jobs):
    all_vocabularies = list(vocabularies.values())
    for pair in align_pairs(COUNTING["cooccurrence"], all_vocabularies, corpus.in_processes(jobs)):
        source, target = all_vocabularies[pair.source], all_vocabularies[pair.target]
        assert same(pair.alignment, align(source, target, method="cooccurrence", corpus=corpus, cache=False))


def test_for_all_pairs_each_tokenizer_encodes_the_text_once(builder, vocabularies, corpus, monkeypatch):
    encoded: Counter[str] = Counter()
    encode = Vocabulary.encode_batch

    def counted(self, texts):
        encoded[self.name] += len(texts)
        return encode(self, texts)

    monkeypatch.setattr(Vocabulary, "encode_batch", counted)
    list(align_pairs(builder, list(vocabularies.values()), corpus))
    assert encoded == dict.fromkeys(vocabularies, len(list(corpus.chunks())))


@pytest.mark.parametrize(
    ("given_names", "files"),
    [
        (["smollm2-135m-instruct", "google/gemma-3-270m"], ["smollm2-135m-instruct", "gemma-3-270m"]),
        (["./small/tokenizer.json", "/a/big.gguf"], ["small", "big"]),
        (["./a", "./b/"], ["a", "b"]),
        (["x/model", "y/model"], ["x-model", "y-model"]),
        (["tokenizer.json", ".", "日本 語"], ["tokenizer.json", "tokenizer", "日本-語"]),
    ],
)
def test_file_names_distinguish_the_tokenizers(given_names, files):
    assert short_names(given_names) == files


@pytest.mark.parametrize("names", [["./a", "b", "./a"], ["x/a", "x-a", "y/a"]])
def test_a_tokenizer_given_twice_is_an_error(names):
    with pytest.raises(VocabridgeError, match=r"both be called (x-)?a; name each tokenizer once"):
        short_names(names)
