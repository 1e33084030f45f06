"""align, inspect and cache, through the real entry point on small tokenizers."""

import json

import pytest

from vocabridge.alignment import Alignment, Vocabulary


def test_align_prints_a_table_and_saves_a_file_that_loads(run, tokenizer_folders, text, tmp_path):
    source, target = tokenizer_folders.source, tokenizer_folders.target
    done = run("align", source, target, "--corpus", text, "-o", "pair.safetensors")
    assert done.returncode == 0, done.stderr
    assert "fingerprint" in done.stdout
    assert "saved to" in done.stdout
    loaded = Alignment.load(
        tmp_path / "pair.safetensors", source=Vocabulary.load(source), target=Vocabulary.load(target)
    )
    assert loaded.counts.shape == (704, 416)


@pytest.mark.parametrize("method", ["default", "exact", "retokenize", "cooccurrence"])
def test_align_json_is_one_document_and_nothing_else(run, tokenizer_folders, text, method):
    corpus = ("--corpus", text) if method in {"default", "cooccurrence"} else ()
    done = run("align", tokenizer_folders.source, tokenizer_folders.target, "--method", method, *corpus, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["method"] == method
    assert (document["source"]["size"], document["target"]["size"]) == (416, 704)
    assert document["summary"]["pairs"] > 0
    assert document["output"] is None


def test_align_without_a_corpus_counts_on_the_text_that_ships(run, tokenizer_folders):
    done = run("align", tokenizer_folders.source, tokenizer_folders.target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["corpus"]["files"] == 4


def test_inspect_shows_what_align_wrote(run, tokenizer_folders, text):
    done = run(
        "align",
        tokenizer_folders.source,
        tokenizer_folders.target,
        "--corpus",
        text,
        "-o",
        "pair.safetensors",
        "--json",
    )
    built = json.loads(done.stdout)
    shown = json.loads(run("inspect", "pair.safetensors", "--json").stdout)
    assert shown.pop("file") == "pair.safetensors"
    assert shown == {key: built[key] for key in shown}
    assert "fingerprint" in run("inspect", "pair.safetensors").stdout


def test_the_cache_lists_verifies_and_prunes(run, tokenizer_folders, text):
    assert json.loads(run("cache", "list", "--json").stdout)["entries"] == []
    assert "is empty" in run("cache", "list").stdout
    run("align", tokenizer_folders.source, tokenizer_folders.target, "--method", "exact")
    run("align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", text)
    entries = json.loads(run("cache", "list", "--json").stdout)["entries"]
    assert sorted(entry["alignment"]["method"] for entry in entries) == ["default", "exact"]
    assert run("cache", "verify").returncode == 0

    with open(entries[0]["path"], "r+b") as file:
        file.truncate(entries[0]["bytes"] // 2)
    damaged = run("cache", "verify", "--json")
    assert damaged.returncode == 1
    assert [entry["problem"] is None for entry in json.loads(damaged.stdout)["entries"]] == [False, True]
    assert "damaged" in run("cache", "list").stdout

    assert entries[0]["path"] in json.loads(run("cache", "prune", "--json").stdout)["removed"]
    assert run("cache", "verify").returncode == 0
    run("cache", "prune", "--all")
    assert "is empty" in run("cache", "list").stdout


def test_a_damaged_cache_entry_is_built_again_and_said(run, tokenizer_folders):
    arguments = ("align", tokenizer_folders.source, tokenizer_folders.target, "--method", "exact", "--json")
    before = json.loads(run(*arguments).stdout)
    entry = json.loads(run("cache", "list", "--json").stdout)["entries"][0]
    with open(entry["path"], "r+b") as file:
        file.seek(-3, 2)
        file.write(b"\xff\xff\xff")
    done = run(*arguments)
    assert done.returncode == 0
    assert json.loads(done.stdout)["summary"] == before["summary"]
    assert "warning: " in done.stderr
    assert entry["path"] in done.stderr
