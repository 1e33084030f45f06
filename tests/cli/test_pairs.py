"""`vocabridge pairs` through the real entry point: each ordered pair gets the file that `align` writes."""

import itertools
import json
import shutil

import pytest


@pytest.fixture
def names(tokenizer_folders, tmp_path):
    """Return three tokenizers: two, and the first one again with a wider model."""
    for name in ("a", "b", "c"):
        shutil.copytree(tokenizer_folders.target if name == "b" else tokenizer_folders.source, tmp_path / name)
    (tmp_path / "c" / "config.json").write_text(json.dumps({"vocab_size": 500}))
    return ("./a", "b/tokenizer.json", "./c")


@pytest.mark.quick(1)
@pytest.mark.parametrize("method", ["default", "identical-bytes"])
def test_every_ordered_pair_is_the_file_that_align_writes(run, names, text, tmp_path, method):
    corpus = () if method == "identical-bytes" else ("--corpus", text)
    done = run("pairs", *names, "-o", "pairs", "--method", method, *corpus, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    pairs = list(itertools.permutations("abc", 2))
    assert [pair["output"] for pair in document["pairs"]] == [f"pairs/{s}--{t}.safetensors" for s, t in pairs]
    assert len(list((tmp_path / "pairs").iterdir())) == len(pairs)
    for (s, t), pair in zip(itertools.permutations(names, 2), document["pairs"], strict=True):
        run("align", s, t, "--method", method, *corpus, "-o", "own.safetensors")
        assert (tmp_path / pair["output"]).read_bytes() == (tmp_path / "own.safetensors").read_bytes()
        assert pair["seconds"] > 0


def test_the_table_has_a_line_for_each_pair(run, names, text):
    done = run("pairs", *names, "-o", "pairs", "--corpus", text, "--method", "cooccurrence", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 alignments in pairs, ")
    lines = [line.split() for line in done.stdout.splitlines() if " -> " in line]
    assert [(line[0], line[2]) for line in lines] == list(itertools.permutations("abc", 2))
    assert all(line[4].endswith("%") and line[5].endswith("%") for line in lines)
