"""The audit, against figures computed by hand on tiny vocabularies, and its invariants on trained ones."""

import json
import math
import re

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from vocabridge.alignment import (
    Alignment,
    Audit,
    Corpus,
    TokenKind,
    VocabridgeError,
    Vocabulary,
    VocabularyCard,
    align,
    weak_classes,
)
from vocabridge.alignment.audit.coverage import Coverage
from vocabridge.alignment.audit.digits import Grouping
from vocabridge.alignment.audit.tokens import readable
from vocabridge.alignment.audit.weak import WEAK
from vocabridge.alignment.tokenizers.classes import TokenClass, classes_of

SOURCE = ["a", "b", " ", "1", "2"]
TARGET = ["a", "b", " ", "1", "2", "ab", "12"]


def spelled(tokens, merges=(), pre_tokenizer=None, normalizer=None, **settings):
    """A vocabulary whose tokens are these texts."""
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), **settings))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return Vocabulary.from_tokenizer(tokenizer)


def aligned(source, target, entries):
    """An alignment of these (target token, source token, count)."""
    y, w, counts = zip(*entries, strict=True)
    shape = (target.size, source.size)
    rows, columns = [target.canonical[token.encode()] for token in y], [source.canonical[token.encode()] for token in w]
    matrix = sp.coo_array((np.array(counts, np.float32), (rows, columns)), shape=shape).tocsr()
    return Alignment(matrix, VocabularyCard.of(source), VocabularyCard.of(target), "by hand", {})


def corpus_of(text, tmp_path):
    path = tmp_path / "audited.txt"
    path.write_text(text, encoding="utf-8")
    return Corpus.open([path])


@pytest.fixture
def tiny(tmp_path):
    """The text is ab _ ab _ b _ 12 for the target, a b _ a b _ b _ 1 2 for the source; 1 has no column."""
    source, target = spelled(SOURCE), spelled(TARGET, [("a", "b"), ("1", "2")])
    entries = [("ab", "a", 3), ("a", "a", 1), ("b", "b", 1), (" ", " ", 1)]
    return Audit.of(aligned(source, target, entries), source, target, corpus_of("ab ab b 12", tmp_path))


def test_coverage_and_lost_mass_are_those_computed_by_hand(tiny):
    words = tiny.targets[TokenClass.WORDS]  # a, b, ab; twice ab stands at a, once b at b
    assert (words.ids, words.covered, words.occurrences, words.common) == (3, 3, 3, 3)
    assert words.arrived == pytest.approx(2 * 0.75 + 1)
    assert words.same_class == pytest.approx(2 * 0.25)
    assert words.bits == pytest.approx(2 * math.log2(4 / 3))
    assert words.least_bits == 0

    numbers = tiny.targets[TokenClass.NUMBERS]  # 1, 2, 12, none of which has a row
    assert (numbers.ids, numbers.by_vocabulary, numbers.by_mass) == (3, 0, 0)
    assert (numbers.occurrences, numbers.arriving, numbers.nowhere) == (1, 0, 1)
    assert numbers.bits_each == pytest.approx(math.log2(7))  # a uniform guess among 7 tokens

    spaces = tiny.targets[TokenClass.WHITESPACE]
    assert (spaces.occurrences, spaces.arriving, spaces.bits) == (3, 1, 0)
    assert math.isnan(tiny.targets[TokenClass.CODE].by_vocabulary)


def test_columns_and_common_starts_are_those_computed_by_hand(tiny):
    words = tiny.sources[TokenClass.WORDS]  # a b a b b, of which both b after an a start where no target token does
    assert (words.ids, words.covered, words.occurrences, words.common) == (2, 2, 5, 3)
    assert words.at_boundaries == pytest.approx(3 / 5)
    numbers = tiny.sources[TokenClass.NUMBERS]
    assert (numbers.covered, numbers.occurrences, numbers.covered_occurrences, numbers.common) == (0, 2, 0, 1)
    assert (tiny.all_targets.common, tiny.all_targets.occurrences, tiny.all_sources.occurrences) == (7, 7, 10)


def test_overlap_entries_and_fertility_are_those_computed_by_hand(tiny):
    o = tiny.overlap
    assert (o.shared, o.only_source, o.only_target, o.paired) == (5, 0, 2, 3)
    assert (o.source_mass_shared, o.source_mass) == (10, 10)
    assert (o.target_mass_shared, o.target_mass) == (4, 7)
    assert (tiny.rows.none, tiny.rows.one, tiny.rows.few, tiny.rows.by_power) == (3, 4, 0, (4,))
    assert (tiny.columns.none, tiny.columns.one, tiny.columns.few, tiny.columns.by_power) == (2, 2, 1, (2, 1))
    words = tiny.fertility[TokenClass.WORDS]  # "ab", " ab", " b"
    assert (words.units, words.bytes, words.source_tokens, words.target_tokens) == (3, 7, 7, 5)
    assert (words.source_per_unit, words.target_bytes) == (7 / 3, 7 / 5)
    numbers = tiny.fertility[TokenClass.NUMBERS]  # " 12"
    assert (numbers.units, numbers.bytes, numbers.source_tokens, numbers.target_tokens) == (1, 3, 3, 2)


def test_the_worst_tokens_come_with_what_got_their_mass(tiny):
    assert [(loss.target.text, loss.source.text, loss.occurrences) for loss in tiny.worst] == [
        ("12", "1", 1),
        ("ab", "a", 2),
    ]
    assert tiny.worst[0].instead == ()
    assert [(share.token.text, share.mass) for share in tiny.worst[1].instead] == [("a", pytest.approx(0.25))]
    assert tiny.worst[1].arriving == pytest.approx(0.75)


def test_a_class_left_out_is_weak_and_named_with_its_share(tiny):
    assert [sentence for sentence in tiny.weak if sentence.startswith("numbers")] == [
        "numbers: only 0.0% of the target's tokens have a row.",
        "numbers: only 0.0% of the source's tokens have a column.",
        "numbers: only 0.0% of the text's target tokens have a row.",
        "numbers: only 0.0% of the text's source tokens have a column.",
        "numbers: only 0.0% of the mass arrives on this text.",
    ]
    assert not [sentence for sentence in tiny.weak if not sentence.startswith("numbers")]


def test_mass_that_ends_in_another_class_is_missing_in_its_own(tmp_path):
    """Digits with a row and a column each, whose mass goes to words all the same."""
    source, target = spelled(SOURCE), spelled(SOURCE)
    entries = [(token, token, 1) for token in SOURCE] + [("a", "1", 3)]
    found = Audit.of(aligned(source, target, entries), source, target, corpus_of("1 1", tmp_path))
    numbers = found.targets[TokenClass.NUMBERS]
    assert (numbers.arriving, numbers.kept, numbers.other_class) == (0.25, 0.25, 1.5)
    assert found.weak == ("numbers: only 25.0% of the mass arrives on this text.",)
    (flow,) = (flow for flow in found.digit_flows if flow.source.text == "1")
    assert (flow.to_itself, flow.to_numbers) == (0.25, 0.25)
    assert [(share.token.text, share.mass) for share in flow.to] == [("a", 0.75), ("1", 0.25)]


def test_bytes_that_no_token_spells_are_counted(tmp_path):
    source = spelled([*SOURCE, "A", "B"])
    target = spelled(TARGET, [("a", "b"), ("1", "2")], normalizer=normalizers.Lowercase())
    corpus = corpus_of("AB ab 1", tmp_path)
    found = Audit.of(aligned(source, target, [("a", "a", 1)]), source, target, corpus)
    assert (found.source_unspelled, found.target_unspelled) == (0, 2)
    assert found.target.changes == ("lower-cases",)
    assert found.targets[TokenClass.WORDS].occurrences == 2


NUMERALS = [str(i) for i in range(1000)]


@pytest.mark.parametrize(
    ("pattern", "grouping", "cut"),
    [
        (r"\d", Grouping.SINGLE, ("2", "0", "2", "4")),
        (r"\d{1,3}", Grouping.THREES_FROM_LEFT, ("202", "4")),
        (r"\d{1,3}(?=(?:\d{3})*\b)", Grouping.THREES_FROM_RIGHT, ("2", "024")),
        (r"\d{1,2}", Grouping.OTHER, ("20", "24")),
    ],
)
def test_the_habits_with_digits_are_told_apart(tmp_path, pattern, grouping, cut):
    splitting = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokens = [*NUMERALS, "024", " ", ",", "."]
    target = spelled(tokens, pre_tokenizer=splitting, ignore_merges=True)
    source = spelled([*NUMERALS, " 7", " "], ignore_merges=True)
    found = Audit.of(aligned(source, target, [("7", "7", 1)]), source, target, corpus_of("7", tmp_path))
    assert found.target_digits.grouping is grouping
    assert found.target_digits.cuts["2024"] == cut
    assert found.target_digits.ones == 10
    assert (found.target_digits.tens == 90) == (grouping is not Grouping.SINGLE)
    assert found.source_digits.space_joined
    assert not found.target_digits.space_joined
    assert found.target_digits.cuts[" 7"] == ("␣", "7")


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
    return corpus_of(text, tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def trained(corpus):
    def trained(source, target, method):
        with_text = {"corpus": corpus} if method != "retokenize" else {}
        built = align(source, target, method=method, cache=False, **with_text)
        return built, Audit.of(built, source, target, corpus)

    return trained


def test_classes_add_up_to_the_whole_for_every_pair_of_tokenizers(pair, trained, corpus, text):
    source, target = pair
    _, found = trained(source, target, "default")
    sides = (
        (target, found.targets, found.all_targets, found.all_text.target_tokens),
        (source, found.sources, found.all_sources, found.all_text.source_tokens),
    )
    for vocabulary, classes, whole, tokens_in_units in sides:
        ids = np.concatenate([encoding.ids for encoding in vocabulary.encode_batch(list(corpus.chunks()))])
        by_class = np.bincount(classes_of(vocabulary)[ids], minlength=len(TokenClass)).tolist()
        assert [one.occurrences for one in classes] == by_class
        assert whole.occurrences == len(ids)
        assert tokens_in_units == len(ids) - by_class[TokenClass.CONTROL]
        assert sum(one.ids for one in classes) == np.count_nonzero(vocabulary.kinds != TokenKind.UNUSED)
        for one in classes:
            assert one.common <= one.occurrences
            assert one.covered_occurrences <= one.occurrences
            assert one.arrived + one.same_class + one.other_class <= one.common * (1 + 1e-6)
    for name in ("common", "arrived", "bits"):
        assert getattr(found.all_targets, name) == pytest.approx(getattr(found.all_sources, name))
    assert found.all_text.bytes == len(text.encode())


def test_an_alignment_counted_on_the_very_text_loses_the_least_and_balances(pair, trained):
    _, found = trained(*pair, "cooccurrence")
    assert found.all_targets.bits == pytest.approx(found.all_targets.least_bits, abs=1e-4)
    for balance in found.balances:
        assert balance.got == pytest.approx(balance.due, rel=1e-4)


def test_a_text_twice_counts_twice(vocabularies, trained, text, tmp_path):
    source, target = vocabularies["byte_level_bpe"], vocabularies["unigram"]
    built, once = trained(source, target, "default")
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path in paths:
        path.write_text(text, encoding="utf-8")
    twice = Audit.of(built, source, target, Corpus.open(paths))
    assert twice.all_targets.occurrences == 2 * once.all_targets.occurrences
    assert twice.all_targets.bits == pytest.approx(2 * once.all_targets.bits)
    assert twice.all_targets.ids == once.all_targets.ids
    assert twice.all_text.units == 2 * once.all_text.units


def test_a_token_removed_from_the_counts_is_the_worst(vocabularies, trained, corpus):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    built, before = trained(source, target, "cooccurrence")
    removed = int(np.argmax(built.counts.sum(axis=1)))
    assert removed != before.worst[0].target.id
    counts = built.counts.tolil()
    counts[removed, :] = 0
    without = Alignment(counts.tocsr(), built.source, built.target, built.method, {})
    found = Audit.of(without, source, target, corpus)
    worst = found.worst[0]
    assert worst.target.id == removed
    assert worst.target.text == readable(target.token_bytes[removed])
    assert (worst.arrived, worst.bits_each) == (0, pytest.approx(math.log2(target.size)))
    assert found.all_targets.covered == before.all_targets.covered - 1


def test_weak_classes_are_found_without_text(vocabularies, trained):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    built, _ = trained(source, target, "default")
    assert weak_classes(built, source, target) == ()
    numbers = np.flatnonzero(classes_of(target) == TokenClass.NUMBERS)
    dropped = numbers[: math.ceil(len(numbers) * (1 - WEAK)) + 1]
    kept = sp.diags_array((~np.isin(np.arange(target.size), dropped)).astype(np.float32)) @ built.counts
    kept = sp.csr_array(kept)
    kept.eliminate_zeros()
    share = 1 - len(dropped) / len(numbers)
    found = weak_classes(Alignment(kept, built.source, built.target, built.method, {}), source, target)
    assert f"numbers: only {share:.1%} of the target's tokens have a row." in found
    assert all(sentence.startswith("numbers") for sentence in found)


def test_an_audit_as_a_document_has_the_ratios(tiny):
    document = tiny.as_dict()
    words = document["targets"][TokenClass.WORDS]
    assert (words["token_class"], words["by_vocabulary"]) == ("words", 1.0)
    assert math.isnan(document["targets"][TokenClass.CODE]["by_vocabulary"])
    assert document["all_targets"]["occurrences"] == 7
    assert document["source_digits"]["grouping"] == "other groups"
    assert document["worst"][0]["target"]["text"] == "12"
    assert document["weak"] == list(tiny.weak)
    json.dumps(document)


def test_an_alignment_of_other_vocabularies_is_refused(tiny, vocabularies, tmp_path):
    source, target = spelled(SOURCE), spelled(TARGET, [("a", "b"), ("1", "2")])
    built = aligned(source, target, [("a", "a", 1)])
    with pytest.raises(VocabridgeError, match="made for the target tokenizer"):
        Audit.of(built, source, vocabularies["unigram"], corpus_of("a", tmp_path))


def test_an_empty_alignment_and_a_text_without_tokens_are_audited(tmp_path):
    source, target = spelled(SOURCE), spelled(TARGET)
    empty = Alignment(
        sp.csr_array((target.size, source.size), dtype=np.float32),
        VocabularyCard.of(source),
        VocabularyCard.of(target),
        "none",
        {},
    )
    found = Audit.of(empty, source, target, corpus_of("ab", tmp_path))
    assert (found.all_targets.common, found.all_targets.arrived, found.all_targets.nowhere) == (2, 0, 2)
    found = Audit.of(empty, source, target, corpus_of("é", tmp_path))  # no token spells it
    assert found.all_targets.occurrences == 0
    assert found.worst == ()


@given(st.binary(max_size=8) | st.text(max_size=4).map(str.encode))
def test_readable_text_is_printable_and_says_every_byte(data):
    shown = readable(data)
    assert shown.isprintable()
    assert " " not in shown

    def bytes_of(part):
        if re.fullmatch(r"\\x[89a-f].", part):  # a byte that is no character
            return bytes.fromhex(part[2:])
        return (part.encode().decode("unicode_escape") if part[0] == "\\" else part.replace("␣", " ")).encode()

    parts = re.findall(r"\\x..|\\u....|\\U........|\\.|.", shown)
    assert b"".join(map(bytes_of, parts)) == data


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\t", "\\n\\t"),
        (b"\xf0\x9f", "\\xf0\\x9f"),
        ("\u00a0".encode(), "\\u00a0"),
        (b"\xa0", "\\xa0"),
        (b"\\xa0", "\\\\xa0"),
        ("␣".encode(), "\\u2423"),
        ("日本".encode(), "日本"),
        (b"<script>", "<script>"),
    ],
)
def test_bytes_are_shown_each_in_a_way_of_its_own(data, shown):
    assert readable(data) == shown


def test_a_ratio_of_nothing_is_no_number():
    assert math.isnan(Coverage(TokenClass.WORDS).by_mass)
    assert math.isnan(Coverage(TokenClass.WORDS).bits_each)
