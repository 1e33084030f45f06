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
    overlap = tiny.overlap
    assert (overlap.shared, overlap.only_source, overlap.only_target, overlap.paired) == (5, 0, 2, 3)
    assert (overlap.source_mass_shared, overlap.source_mass) == (10, 10)
    assert (overlap.target_mass_shared, overlap.target_mass) == (4, 7)
    assert (tiny.rows.none, tiny.rows.one, tiny.rows.few, tiny.rows.by_power) == (3, 4, 0, (4,))
    assert (tiny.columns.none, tiny.columns.one, tiny.columns.few, tiny.columns.by_power) == (2, 2, 1, (2, 1))
    words = tiny.fertility[TokenClass.WORDS]  # "ab", " ab", " b"
    assert (words.units, words.bytes, words.source_tokens, words.target_tokens) == (3, 7, 7, 5)
    assert (words.source_per_unit, words.target_bytes) == (7 / 3, 7 / 5)
    numbers = tiny.fertility[TokenClass.NUMBERS]  # " 12"
    assert (numbers.units, numbers.bytes, numbers.source_tokens, numbers.target_tokens) == (1, 3, 3, 2)


def test_the_worst_tokens_are_listed_with_the_tokens_that_got_their_mass(tiny):
    assert [(loss.target.text, loss.source.text, loss.occurrences) for loss in tiny.worst] == [
        ("12", "1", 1),
        ("ab", "a", 2),
    ]
    assert tiny.worst[0].instead == ()
    assert [(share.token.text, share.mass) for share in tiny.worst[1].instead] == [("a", pytest.approx(0.25))]
    assert tiny.worst[1].arriving == pytest.approx(0.75)


def test_a_class_without_entries_is_weak_and_named_with_its_share(tiny):
    assert [sentence for sentence in tiny.weak if sentence.startswith("numbers")] == [
        "numbers: only 0.0% of the target's tokens have a row.",
        "numbers: only 0.0% of the source's tokens have a column.",
        "numbers: only 0.0% of the text's target tokens have a row.",
        "numbers: only 0.0% of the text's source tokens have a column.",
        "numbers: only 0.0% of the mass arrives on this text.",
    ]
    assert not [sentence for sentence in tiny.weak if not sentence.startswith("numbers")]


def test_mass_projected_to_another_class_makes_a_class_weak(tmp_path):
    """Every digit has a row and a column, but most of the mass goes to words."""
    source, target = spelled(SOURCE), spelled(SOURCE)
    entries = [(token, token, 1) for token in SOURCE] + [("a", "1", 3)]
    audit = Audit.of(aligned(source, target, entries), source, target, corpus_of("1 1", tmp_path))
    numbers = audit.targets[TokenClass.NUMBERS]
    assert (numbers.arriving, numbers.kept, numbers.other_class) == (0.25, 0.25, 1.5)
    assert audit.weak == ("numbers: only 25.0% of the mass arrives on this text.",)
    (flow,) = (flow for flow in audit.digit_flows if flow.source.text == "1")
    assert (flow.to_itself, flow.to_numbers) == (0.25, 0.25)
    assert [(share.token.text, share.mass) for share in flow.to] == [("a", 0.75), ("1", 0.25)]


def test_bytes_that_no_token_spells_are_counted(tmp_path):
    source = spelled([*SOURCE, "A", "B"])
    target = spelled(TARGET, [("a", "b"), ("1", "2")], normalizer=normalizers.Lowercase())
    corpus = corpus_of("AB ab 1", tmp_path)
    audit = Audit.of(aligned(source, target, [("a", "a", 1)]), source, target, corpus)
    assert (audit.source_unspelled, audit.target_unspelled) == (0, 2)
    assert audit.target.changes == ("lower-cases",)
    assert audit.targets[TokenClass.WORDS].occurrences == 2


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
def test_the_ways_to_group_digits_are_recognized(tmp_path, pattern, grouping, cut):
    splitting = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokens = [*NUMERALS, "024", " ", ",", "."]
    target = spelled(tokens, pre_tokenizer=splitting, ignore_merges=True)
    source = spelled([*NUMERALS, " 7", " "], ignore_merges=True)
    audit = Audit.of(aligned(source, target, [("7", "7", 1)]), source, target, corpus_of("7", tmp_path))
    assert audit.target_digits.grouping is grouping
    assert audit.target_digits.cuts["2024"] == cut
    assert audit.target_digits.ones == 10
    assert (audit.target_digits.tens == 90) == (grouping is not Grouping.SINGLE)
    assert audit.source_digits.space_joined
    assert not audit.target_digits.space_joined
    assert audit.target_digits.cuts[" 7"] == ("␣", "7")


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


def test_the_figures_of_classes_add_up_for_every_pair_of_tokenizers(pair, trained, corpus, text):
    source, target = pair
    _, audit = trained(source, target, "default")
    sides = (
        (target, audit.targets, audit.all_targets, audit.all_text.target_tokens),
        (source, audit.sources, audit.all_sources, audit.all_text.source_tokens),
    )
    for vocabulary, classes, all_classes, tokens_in_units in sides:
        ids = np.concatenate([encoding.ids for encoding in vocabulary.encode_batch(list(corpus.chunks()))])
        by_class = np.bincount(classes_of(vocabulary)[ids], minlength=len(TokenClass)).tolist()
        assert [coverage.occurrences for coverage in classes] == by_class
        assert all_classes.occurrences == len(ids)
        assert tokens_in_units == len(ids) - by_class[TokenClass.CONTROL]
        assert sum(coverage.ids for coverage in classes) == np.count_nonzero(vocabulary.kinds != TokenKind.UNUSED)
        for coverage in classes:
            assert coverage.common <= coverage.occurrences
            assert coverage.covered_occurrences <= coverage.occurrences
            assert coverage.arrived + coverage.same_class + coverage.other_class <= coverage.common * (1 + 1e-6)
    for name in ("common", "arrived", "bits"):
        assert getattr(audit.all_targets, name) == pytest.approx(getattr(audit.all_sources, name))
    assert audit.all_text.bytes == len(text.encode())


def test_an_alignment_counted_on_the_audited_text_loses_the_least_bits_and_balances(pair, trained):
    _, audit = trained(*pair, "cooccurrence")
    assert audit.all_targets.bits == pytest.approx(audit.all_targets.least_bits, abs=1e-4)
    for balance in audit.balances:
        assert balance.got == pytest.approx(balance.due, rel=1e-4)


def test_a_text_given_twice_counts_twice(vocabularies, trained, text, tmp_path):
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
    audit = Audit.of(without, source, target, corpus)
    worst = audit.worst[0]
    assert worst.target.id == removed
    assert worst.target.text == readable(target.token_bytes[removed])
    assert (worst.arrived, worst.bits_each) == (0, pytest.approx(math.log2(target.size)))
    assert audit.all_targets.covered == before.all_targets.covered - 1


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
    sentences = weak_classes(Alignment(kept, built.source, built.target, built.method, {}), source, target)
    assert f"numbers: only {share:.1%} of the target's tokens have a row." in sentences
    assert all(sentence.startswith("numbers") for sentence in sentences)


def test_the_json_form_of_an_audit_has_the_ratios(tiny):
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
    audit = Audit.of(empty, source, target, corpus_of("ab", tmp_path))
    assert (audit.all_targets.common, audit.all_targets.arrived, audit.all_targets.nowhere) == (2, 0, 2)
    audit = Audit.of(empty, source, target, corpus_of("é", tmp_path))  # no token spells it
    assert audit.all_targets.occurrences == 0
    assert audit.worst == ()


@given(st.binary(max_size=8) | st.text(max_size=4).map(str.encode))
def test_readable_text_is_printable_and_shows_every_byte(data):
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
def test_bytes_are_shown_without_ambiguity(data, shown):
    assert readable(data) == shown


def test_a_ratio_over_zero_is_nan():
    assert math.isnan(Coverage(TokenClass.WORDS).by_mass)
    assert math.isnan(Coverage(TokenClass.WORDS).bits_each)
