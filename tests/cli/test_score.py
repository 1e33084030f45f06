"""score through the real entry point, on tiny models."""

import json

import pytest

POLICIES = ["skip", "retokenize", "heal", "look-ahead"]


def test_it_prints_one_document_that_says_what_the_library_says(run, model_folders, model_pair, text, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "code.txt").write_text("def count(words):\n    return {word: 1}\n" * 5)
    done = run("score", model_pair, "--model", model_folders.source, "--text", text, "--text", "more", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"scoring {model_pair} with {model_folders.source}\n"
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    from vocabridge.alignment import Alignment, Corpus, Vocabulary
    from vocabridge.models import load_model
    from vocabridge.score import score

    corpus = Corpus.open([text, tmp_path / "more"])
    model, target = load_model(str(model_folders.source)), Vocabulary.load(model_folders.target)
    found = score(model, target, {"": Alignment.load(model_pair)}, corpus)[""].as_dict()
    assert list(document) == ["file", "bytes", *found, "seconds"]
    assert (document["file"], document["bytes"]) == (str(model_pair), corpus.bytes)
    for key in ("model", "source", "target", "method", "positions", "common_share"):
        assert document[key] == found[key]
    assert list(document["policies"]) == POLICIES
    for policy, carried in document["policies"].items():
        assert carried["overall"] == pytest.approx(found["policies"][policy]["overall"], rel=1e-3)
        assert carried["by_class"].keys() == found["policies"][policy]["by_class"].keys()
        assert carried["by_fit"].keys() == found["policies"][policy]["by_fit"].keys()


def test_it_prints_tables_for_people(run, model_folders, model_pair, text):
    done = run("score", model_pair, "--model", model_folders.source, "--text", text)
    assert done.returncode == 0, done.stderr
    for word in (*POLICIES, "bits/byte", "common boundaries", "words", "numbers", "non-latin", "target longer"):
        assert word in done.stdout
    assert "nan" not in done.stdout


def test_without_a_text_it_is_refused(run, model_folders, model_pair):
    done = run("score", model_pair, "--model", model_folders.source)
    assert done.returncode == 2
    assert "Missing option '--text'" in done.stderr
