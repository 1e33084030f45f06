"""`vocabridge audit` through the real entry point: tables, JSON, the HTML page, and errors of users."""

import json
import shutil

import pytest


@pytest.fixture
def pair(run, tokenizer_folders, text, tmp_path):
    path = tmp_path / "pair.safetensors"
    done = run("align", tokenizer_folders.source, tokenizer_folders.target, "--corpus", text, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def error_of(done):
    """Return the only sentence on stderr after the lines of progress."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("auditing ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "defect" not in lines[0]
    return lines[0]


def test_audit_prints_tables_of_classes_worst_tokens_and_digits(run, pair, text):
    done = run("audit", pair, "--text", text)
    assert done.returncode == 0, done.stderr
    for words in ("Coverage of the target", "Where the mass goes", "lose most", "Digits", "Fertility", "non-latin"):
        assert words in done.stdout
    assert "saved" not in done.stdout


def test_audit_reads_the_corpus_that_ships_by_default(run, pair):
    done = run("audit", pair, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"]["files"] == 4


def test_audit_json_is_one_document_with_ratios(run, pair, text):
    done = run("audit", pair, "--text", text, "--json", "-o", "audit.html")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["file"], document["output"]) == (str(pair), "audit.html")
    words, *_, control = document["targets"]
    assert words["token_class"] == "words"
    assert words["by_vocabulary"] == 1.0
    assert 0 < words["arriving"] <= words["kept"] <= 1
    assert control["arriving"] is None
    assert document["source_digits"]["ones"] == 10
    assert [flow["source"]["text"] for flow in document["digit_flows"]] == list("0123456789")


def test_audit_writes_a_page(run, pair, text, tmp_path):
    done = run("audit", pair, "--text", text, "-o", "audit.html")
    assert done.returncode == 0, done.stderr
    assert "saved to audit.html" in done.stdout
    assert (tmp_path / "audit.html").read_text(encoding="utf-8").count("<svg") == 4


def test_tokenizers_that_moved_are_named_and_can_be_given(run, tokenizer_folders, text, tmp_path):
    moved = {}
    for side in ("source", "target"):
        shutil.copytree(getattr(tokenizer_folders, side), tmp_path / side)
        moved[side] = tmp_path / f"{side}-now"
    built = run("align", tmp_path / "source", tmp_path / "target", "--corpus", text, "-o", "pair.safetensors")
    assert built.returncode == 0, built.stderr
    for side, place in moved.items():
        (tmp_path / side).rename(place)
    error = error_of(run("audit", "pair.safetensors", "--text", text, HF_HUB_OFFLINE=1))
    assert str(tmp_path / "source") in error
    assert "--source" in error
    error = error_of(run("audit", "pair.safetensors", "--text", text, "--source", moved["source"], HF_HUB_OFFLINE=1))
    assert "--target" in error
    named = ("--source", moved["source"], "--target", moved["target"])
    assert run("audit", "pair.safetensors", "--text", text, *named).returncode == 0


def test_a_vocabulary_that_the_alignment_was_not_made_for_is_refused(run, pair, tokenizer_folders, text, tmp_path):
    wrong = run("audit", pair, "--text", text, "--source", tokenizer_folders.target, "-o", "audit.html")
    assert "made for the source tokenizer" in error_of(wrong)
    wrong = run("audit", pair, "--text", text, "--target", tokenizer_folders.source)
    assert "made for the target tokenizer" in error_of(wrong)
    assert not (tmp_path / "audit.html").exists()


@pytest.mark.parametrize(("content", "message"), [(b"", "corpus is empty"), (b"\xff\xfe", "not UTF-8")])
def test_an_empty_or_binary_text_is_refused(run, pair, tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    error = error_of(run("audit", pair, "--text", "bad.txt", "-o", "audit.html"))
    assert message in error
    assert "bad.txt" in error
    assert not (tmp_path / "audit.html").exists()


def test_a_file_that_is_not_an_alignment_is_refused(run, text):
    assert str(text) in error_of(run("audit", text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere.safetensors", "'nowhere.safetensors' does not exist"),
        ("text.txt --text nowhere.txt", "'nowhere.txt' does not exist"),
        ("text.txt -o nowhere/audit.html", "There is no folder"),
        ("", "Missing argument 'ALIGNMENT'"),
    ],
)
def test_wrong_usage_is_status_2_with_a_sentence(run, text, arguments, message):
    done = run("audit", *arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
