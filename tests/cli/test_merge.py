"""`vocabridge align --shard` and `merge` through the real entry point: merged shards are the file of one build."""

import json
import shutil

import pytest

from vocabridge.data import corpus_files


@pytest.fixture
def corpus(tmp_path):
    """Write enough text for a piece in each of three shards."""
    folder = tmp_path / "big"
    folder.mkdir()
    for number, path in enumerate(corpus_files()):
        (folder / f"{number}.txt").write_text(path.read_text(encoding="utf-8")[:100_000], encoding="utf-8")
    return folder


@pytest.mark.quick(1)
@pytest.mark.parametrize("method", ["default", "cooccurrence"])
def test_merged_shards_are_the_file_that_one_build_writes(run, tokenizer_folders, corpus, tmp_path, method):
    pair = (tokenizer_folders.source, tokenizer_folders.target, "--corpus", corpus, "--method", method)
    for number, jobs in ((1, 1), (2, 2), (3, 1)):
        done = run("align", *pair, "--shard", f"{number}/3", "--jobs", jobs, "-o", f"s{number}", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["shard"] == {"index": number, "of": 3}
        assert (document["method"], document["output"]) == (method, f"s{number}")
        assert document["occurrences"] > document["pairs"] > 0
    done = run("merge", "s2", "s3", "s1", "-o", "merged.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    merged = json.loads(done.stdout)
    built = json.loads(run("align", *pair, "-o", "built.safetensors", "--json").stdout)
    assert (tmp_path / "merged.safetensors").read_bytes() == (tmp_path / "built.safetensors").read_bytes()
    assert {key: merged[key] for key in ("summary", "corpus", "source")} == {
        key: built[key] for key in ("summary", "corpus", "source")
    }


def test_tokenizers_that_moved_are_named(run, tokenizer_folders, corpus, tmp_path):
    shutil.copytree(tokenizer_folders.source, tmp_path / "source")
    arguments = ("align", "./source", tokenizer_folders.target, "--corpus", corpus)
    run(*arguments, "-o", "built.safetensors")
    done = run(*arguments, "--shard", "1/1", "-o", "shard")
    assert done.returncode == 0, done.stderr
    assert "1/1" in done.stdout
    (tmp_path / "source").rename(tmp_path / "moved")
    done = run("merge", "shard", "-o", "merged.safetensors", "--source", "./moved")
    assert done.returncode == 0, done.stderr
    assert "saved to" in done.stdout
    assert (tmp_path / "merged.safetensors").read_bytes() == (tmp_path / "built.safetensors").read_bytes()
