"""score through the real entry point, on tiny models."""

import json

import pytest

from vocabridge.models.value_network import new_value_network, save_value_network

POLICIES = ["skip", "as-is", "heal", "lookahead"]


def test_it_prints_one_document_that_says_what_the_library_says(run, model_folders, model_pair, text, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "code.txt").write_text("def count(words):\n    return {word: 1}\n" * 5)
    done = run("score", model_pair, "--model", model_folders.source, "--text", text, "--text", "more", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"scoring {model_pair} with {model_folders.source}\n"
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    from vocabridge.alignment import Alignment, Corpus, Vocabulary
    from vocabridge.diagnostics.alignment_score import score
    from vocabridge.models.loading import load_model

    corpus = Corpus.open([text, tmp_path / "more"])
    model, target = load_model(str(model_folders.source)), Vocabulary.load(model_folders.target)
    found = score(model, target, {"": Alignment.load(model_pair)}, corpus)[""].as_dict()
    assert list(document) == ["file", "bytes", *found, "seconds"]
    assert (document["file"], document["bytes"]) == (str(model_pair), corpus.bytes)
    for key in ("model", "source", "target", "method", "positions", "common_share"):
        assert document[key] == found[key]
    assert list(document["policies"]) == POLICIES
    for policy, projected in document["policies"].items():
        assert projected["overall"] == pytest.approx(found["policies"][policy]["overall"], rel=1e-3)
        assert projected["by_class"].keys() == found["policies"][policy]["by_class"].keys()
        assert projected["by_relation"].keys() == found["policies"][policy]["by_relation"].keys()


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


def test_exact_prints_one_document_or_tables(run, model_folders, model_pair, text):
    asked = ("score", model_pair, "--model", model_folders.source, "--text", text, "--against-exact", "--positions", 1)
    done = run(*asked, "--base", model_folders.target, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["positions"] + document["impossible"] == 1
    assert document["base"] == str(model_folders.target)
    found = [(one["method"], one["policy"]) for one in document["approximations"]]
    assert found == [(method, policy) for method in ("static", "informed") for policy in POLICIES]
    assert {"kl", "variation", "agreement"} < document["approximations"][0]["overall"].keys()
    done = run(*asked, COLUMNS=300)
    assert done.returncode == 0, done.stderr
    for word in (
        *POLICIES,
        "static",
        "against the exact distribution",
        "total variation",
        "same most likely",
        "class of target token",
    ):
        assert word in done.stdout


def test_exact_compares_the_change_of_a_value_network(run, model_folders, model_pair, text, tmp_path):
    save_value_network(new_value_network(str(model_folders.source), method="lora", rank=1), tmp_path / "values", {})
    asked = ("score", model_pair, "--model", tmp_path / "values", "--text", text, "--against-exact", "--positions", 1)
    done = run(*asked, "--base", model_folders.target, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {one["method"] for one in document["approximations"]} == {"linear", "exponential", "static", "informed"}
    assert 0 < document["mass"] <= 1
    # Its change is none yet, so that all methods are the base.
    assert all(one["overall"]["variation"] < 1e-3 for one in document["approximations"])
    done = run(*asked)
    assert done.returncode == 1
    assert "name a base" in done.stderr


def test_what_only_exact_has_is_refused_without_it(run, model_folders, model_pair, text):
    for option in (("--positions", 3), ("--base", model_folders.target)):
        done = run("score", model_pair, "--model", model_folders.source, "--text", text, *option)
        assert done.returncode == 2
        assert "--against-exact" in done.stderr
