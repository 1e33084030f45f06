"""`vocabridge align`, `inspect` and `cache` through the real entry point, on small tokenizers."""

import importlib
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file

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


@pytest.mark.parametrize(
    "method",
    ["default", "identical-bytes", "retokenize", "cooccurrence", "edit-distance", "dtw", "dtw-counts", "prefix"],
)
def test_align_json_is_one_document_and_nothing_else(run, tokenizer_folders, text, method):
    corpus = () if method in {"identical-bytes", "retokenize"} else ("--corpus", text)
    done = run("align", tokenizer_folders.source, tokenizer_folders.target, "--method", method, *corpus, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["method"] == method
    assert (document["source"]["size"], document["target"]["size"]) == (416, 704)
    assert document["summary"]["pairs"] > 0
    assert document["output"] is None


@pytest.fixture
def tables(tmp_path):
    """Write embeddings of both tokenizers, and return the options that name them."""
    for name, size in (("source.npy", 416), ("target.npy", 704)):
        np.save(tmp_path / name, np.random.default_rng(size).normal(size=(size, 8)).astype(np.float32))
    return ("--source-embeddings", "source.npy", "--target-embeddings", "target.npy")


def test_a_chain_fills_the_rows_that_the_methods_before_left_empty(run, tokenizer_folders, text, tables):
    pair = (tokenizer_folders.source, tokenizer_folders.target, "--corpus", text, "--json")
    alone = run("align", *pair, "--method", "cooccurrence")
    chained = run("align", *pair, "--method", "cooccurrence,embedding", *tables)
    assert chained.returncode == 0, chained.stderr
    document = json.loads(chained.stdout)
    assert document["method"] == "cooccurrence,embedding"
    assert len(document["parameters"]["embedding"]["embeddings"]) == 2
    assert document["summary"]["target_coverage"] == 1 > json.loads(alone.stdout)["summary"]["target_coverage"]


def test_a_class_without_pairs_is_named(run, tokenizer_folders, text):
    pair = (tokenizer_folders.source, tokenizer_folders.target, "--corpus", text, "--json")
    assert "warning: words: only " in run("align", *pair, "--method", "cooccurrence").stderr
    assert "warning: " not in run("align", *pair).stderr


@pytest.fixture
def as_in_the_examples(tokenizer_folders, text, tmp_path):
    """Make the folders and files that the examples name."""
    names = {"source": ("small", "a", "c", "smollm2"), "target": ("big", "b", "gemma")}
    for side, folders in names.items():
        for folder in folders:
            shutil.copytree(getattr(tokenizer_folders, side), tmp_path / folder)
    for folder, rows in (("small", 416), ("big", 704)):
        table = np.random.default_rng(rows).normal(size=(rows, 8)).astype(np.float32)
        save_file({"model.embed_tokens.weight": table}, tmp_path / folder / "model.safetensors")
    for folder in ("mytexts", "texts"):
        (tmp_path / folder).mkdir()
        shutil.copy(text, tmp_path / folder)


@pytest.mark.quick(1)
@pytest.mark.parametrize("command", ["align", "merge", "pairs"])
def test_the_examples_of_the_help_run(command_server, as_in_the_examples, tmp_path, command):
    """Run each example, with small tokenizers in place of those that are not installed."""
    module = importlib.import_module(f"vocabridge.cli.{command}")
    examples = module.EXAMPLES.replace("\\\n", " ")
    for there, here in (
        ("smollm2-135m-instruct", "./smollm2"),
        ("gemma-3-270m", "./gemma"),
        ("Qwen/Qwen3-0.6B-Base", "./gemma"),
    ):
        examples = examples.replace(there, here)
    lines = [line.strip() for line in examples.splitlines() if line.startswith("  vocabridge ")]
    count = "vocabridge align ./small ./big --corpus texts/ --shard {}/{} -o {}"
    if command == "align":  # the other seven machines
        lines[-1:-1] = [count.format(i, 8, f"shard{i}.safetensors") for i in range(2, 9)]
    if command == "merge":
        (tmp_path / "shards").mkdir()
        for folder in ("", "shards/"):
            lines[:0] = [count.format(i, 2, f"{folder}shard{i}.safetensors") for i in (1, 2)]
    assert len(lines) >= 3
    done = subprocess.run(
        ["sh", "-e", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=command_server.environment(PATH=f"{command_server.command.parent}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_align_without_a_corpus_counts_on_the_corpus_that_ships(run, tokenizer_folders):
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
    run("align", tokenizer_folders.source, tokenizer_folders.target, "--method", "identical-bytes")
    run("align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", text)
    entries = json.loads(run("cache", "list", "--json").stdout)["entries"]
    assert sorted(entry["alignment"]["method"] for entry in entries) == ["default", "identical-bytes"]
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


def test_a_damaged_cache_entry_is_built_again_with_a_warning(run, tokenizer_folders):
    arguments = ("align", tokenizer_folders.source, tokenizer_folders.target, "--method", "identical-bytes", "--json")
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
