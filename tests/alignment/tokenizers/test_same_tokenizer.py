"""Two vocabularies can agree in their tokens, in their roles and in their width, each without the others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import CONTROL, KINDS, train
from tokenizers import AddedToken, Tokenizer

from vocabridge.alignment import (
    Alignment,
    PartialCounts,
    Shard,
    VocabridgeError,
    Vocabulary,
    align,
    cache,
    count_shard,
    make_builder,
    merge_shards,
)
from vocabridge.alignment.tokenizers.loading import LoadedTokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
)


def changed(vocabulary: Vocabulary, **changes: object) -> Tokenizer:
    """Return the tokenizer with some of its model's settings replaced."""
    spec = json.loads(vocabulary.tokenizer.to_str())
    spec["model"] |= changes
    return Tokenizer.from_str(json.dumps(spec))


roles = st.dictionaries(st.sampled_from(["bos", "eos", "pad", "unk"]), st.integers(0, 2))


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), roles=roles, extra_rows=st.integers(0, 70), named=st.integers(0, 3), data=st.data())
def test_roles_width_and_control_tokens_have_no_part_in_the_fingerprint(
    vocabularies, kind, roles, extra_rows, named, data
):
    v = vocabularies[kind]
    tokenizer = Tokenizer.from_str(v.tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken(f"<|control {i}|>", special=True) for i in range(named)])
    size = data.draw(st.integers(v.size, v.size + extra_rows))
    other = Vocabulary.from_tokenizer(tokenizer, size=size, roles=roles)
    assert other.fingerprint == v.fingerprint
    assert other.size == size


@pytest.mark.parametrize("kind", KINDS)
def test_one_merge_one_score_or_one_tokens_bytes_change_the_fingerprint(kind, vocabularies):
    v = vocabularies[kind]
    spec = json.loads(v.tokenizer.to_str())
    vocab, prints = spec["model"]["vocab"], {v.fingerprint}
    variants = []
    if isinstance(vocab, dict):
        last = max(vocab, key=vocab.__getitem__)
        variants.append({"vocab": {("é" + last if t == last else t): i for t, i in vocab.items()}})
    else:
        variants.append({"vocab": [*vocab[:-1], ["né" + vocab[-1][0], vocab[-1][1]]]})
        variants.append({"vocab": [*vocab[:-1], [vocab[-1][0], vocab[-1][1] - 0.5]]})
    if merges := spec["model"].get("merges"):
        variants.append({"merges": [merges[1], merges[0], *merges[2:]]})
        if kind != "tiktoken":
            variants.append({"merges": merges[:-1]})
    for number, variant in enumerate(variants, start=2):
        if "vocab" in variant and merges:
            gone = spec["model"]["merges"][-1]
            variant["merges"] = [m for m in merges if m != gone]
        prints.add(Vocabulary.from_tokenizer(changed(v, **variant), roles=v.roles).fingerprint)
        assert len(prints) == number


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_can_have_more_rows_or_fewer_but_keeps_its_text(kind, vocabularies):
    v = vocabularies[kind]
    wider = v.resized(v.size + 9)
    assert (wider.size, len(wider.kinds), len(wider.token_bytes)) == (v.size + 9,) * 3
    assert wider.fingerprint == v.fingerprint
    assert wider.usable.tolist() == v.usable.tolist()
    back = wider.resized(v.size)
    assert (back.token_bytes, back.kinds.tolist()) == (v.token_bytes, v.kinds.tolist())
    with pytest.raises(VocabridgeError, match="stands for text"):
        v.resized(int(v.usable.max()))


def test_cutting_a_control_token_removes_its_role_and_the_template_that_contains_it(vocabularies):
    v = vocabularies["byte_level_bpe"]
    tokenizer = Tokenizer.from_str(v.tokenizer.to_str())
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    roles = {"bos": 0, "eos": v.size + 1}
    chatty = Vocabulary._view(LoadedTokenizer(tokenizer, "chatty", None, roles, None, template=CHATML))
    cut = chatty.resized(v.size)
    assert cut.roles == {"bos": 0}
    assert cut.encode("a<|im_end|>b").ids.tolist() == [*v.encode("a").ids, *v.encode("b").ids]


def with_roles(vocabulary: Vocabulary, extra_rows: int = 0, **roles: int) -> Vocabulary:
    return Vocabulary.from_tokenizer(vocabulary.tokenizer, size=vocabulary.size + extra_rows, roles=roles)


def same(a: Alignment, b: Alignment) -> bool:
    return a.counts.shape == b.counts.shape and (a.counts != b.counts).nnz == 0


def test_an_alignment_stays_valid_after_a_pad_token_is_named(pair, text, tmp_path):
    source, target = pair
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    before = align(source, target, corpus=[tmp_path / "text.txt"], cache=False)
    before.save(tmp_path / "a.safetensors")
    padded = with_roles(source, bos=0, eos=1, pad=1), with_roles(target, bos=0, eos=1, pad=2)
    loaded = Alignment.load(tmp_path / "a.safetensors", source=padded[0], target=padded[1])
    assert same(loaded, before)


def test_an_alignment_is_fitted_to_other_roles_and_widths_as_if_it_were_built_for_them(pair, text, tmp_path):
    source, target = pair
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    corpus = [tmp_path / "text.txt"]
    others = with_roles(source, 5, bos=1, eos=0), with_roles(target, 3, eos=1, pad=0)
    for method in ("default", "retokenize", "identical-bytes"):
        given = None if method != "default" else corpus
        original = align(source, target, method=method, corpus=given, cache=False)
        other = align(*others, method=method, corpus=given, cache=False)
        assert not same(original, other)
        assert same(original.fitted(*others), other)
        assert same(other.fitted(source, target), original)
        assert original.fitted(*others).source.size == others[0].size


def test_the_cache_serves_vocabularies_that_differ_in_roles_and_width_alone(vocabularies):
    source, target = vocabularies["byte_level_bpe"], vocabularies["unigram"]
    others = with_roles(source, 5, bos=1, eos=0), with_roles(target, 3, eos=1)
    align(source, target, method="retokenize")
    cached = align(*others, method="retokenize")
    assert len(cache.entries()) == 1
    assert same(cached, align(*others, method="retokenize", cache=False))


def test_shards_are_merged_for_a_vocabulary_with_more_rows_and_other_roles(vocabularies, text, tmp_path):
    from vocabridge.alignment import Corpus

    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    corpus = Corpus.open([tmp_path / "text.txt"])
    builder = make_builder("cooccurrence")
    paths = []
    for i in (1, 2):
        paths.append(tmp_path / f"{i}.safetensors")
        count_shard(builder, source, target, corpus, Shard(i, 2)).save(paths[-1])
    assert PartialCounts.load(paths[0]).source.control_roles == source.control_roles
    others = with_roles(source, 5, bos=1, eos=0), with_roles(target, 3, eos=1)
    merged = merge_shards(paths, source=others[0], target=others[1])
    assert same(merged, builder.build(*others, corpus))


def test_an_alignment_counted_for_other_merges_is_refused(vocabularies):
    source, target = vocabularies["byte_level_bpe"], vocabularies["unigram"]
    merges = json.loads(source.tokenizer.to_str())["model"]["merges"]
    other = Vocabulary.from_tokenizer(changed(source, merges=merges[:-1]), roles=source.roles)
    built = align(source, target, method="identical-bytes", cache=False)
    with pytest.raises(VocabridgeError, match="source tokenizer"):
        built.fitted(other, target)


def test_a_token_that_only_a_role_makes_a_control_token_has_no_part_in_the_fingerprint():
    tokenizer = train("byte_level_bpe")
    i = max(tokenizer.get_vocab().values())
    plain, named = (Vocabulary.from_tokenizer(tokenizer, roles=roles) for roles in ({}, {"eos": i}))
    assert plain.token_bytes[i] is not None
    assert named.token_bytes[i] is None
    assert plain.fingerprint == named.fingerprint
    assert np.array_equal(plain.encode("The quick").ids, named.encode("The quick").ids)
    assert tokenizer.token_to_id(CONTROL[0]) == 0
