"""A tokenizer that panics inside its library raises one sentence with its name, wherever it is used."""

import os
import subprocess
import sys

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.alignment.tokenizers.panics import panics_as_errors

LONG = "a" * 60 + "!"
CATASTROPHIC = r"(a|aa)+$"


def catastrophic(tmp_path, part):
    """Make a folder whose tokenizer.json has a regular expression that backtracks too often."""
    tokenizer = Tokenizer(models.BPE({chr(i): i for i in range(128)}, []))
    if part == "pre-tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CATASTROPHIC), "isolated")
    else:
        tokenizer.normalizer = normalizers.Replace(Regex(CATASTROPHIC), "b")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("part", ["pre-tokenizer", "normalizer"])
def test_a_catastrophic_pattern_is_an_error_that_names_the_tokenizer(tmp_path, part):
    v = Vocabulary.load(catastrophic(tmp_path, part))
    for run in (v.encode, lambda text: v.segment(text.encode()), v.pieces, lambda text: v.ids_batch([text])):
        with pytest.raises(VocabridgeError, match=f"{tmp_path}: its tokenizer fails"):
            run(LONG)


def test_a_panic_in_a_count_over_text_is_the_same_error(tmp_path, tokenizer_folders):
    (tmp_path / "text.txt").write_text(LONG)
    (tmp_path / "folder").mkdir()
    with pytest.raises(VocabridgeError, match="its tokenizer fails"):
        align(
            catastrophic(tmp_path / "folder", "pre-tokenizer"),
            tokenizer_folders.target,
            method="cooccurrence",
            corpus=[tmp_path / "text.txt"],
            cache=False,
        )


def test_the_lines_of_rust_about_a_panic_are_suppressed(tmp_path, capfd):
    v = Vocabulary.load(catastrophic(tmp_path, "pre-tokenizer"))
    for run in (v.encode, lambda text: v.ids_batch([text] * 4), v.pieces):
        with pytest.raises(VocabridgeError, match="its tokenizer fails"):
            run(LONG)
    assert capfd.readouterr().err == ""
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_other_output_to_stderr_during_a_panic_appears(capfd):
    with panics_as_errors("tokenizer"), panics_as_errors("inner"):
        os.write(2, b"progress\n")
    assert capfd.readouterr().err == "progress\n"
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    @panics_as_errors("tokenizer")
    def fail():
        os.write(2, b"before\n\nthread '<unnamed>' (7) panicked at lib.rs:1:2:\nout of range\nnote: run\n")
        os.write(2, b"progress\n")
        raise panic("out of range")

    with pytest.raises(VocabridgeError, match=r"tokenizer: its tokenizer fails \(out of range\)"):
        fail()
    assert capfd.readouterr().err == "before\nprogress\n"


def test_a_process_without_stderr_encodes_as_any_other(tokenizer_folders):
    folder = str(tokenizer_folders.source)
    code = f"from vocabridge.alignment import Vocabulary; print(Vocabulary.load({folder!r}).size)"
    done = subprocess.run(
        f'exec 2>&-; exec {sys.executable} -c "{code}"', shell=True, capture_output=True, text=True, check=True
    )
    assert done.stdout == "416\n"
