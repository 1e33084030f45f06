"""A tokenizer that fails inside its library is one sentence with its name, wherever it is run."""

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from vocabridge.alignment import VocabridgeError, Vocabulary, align

LONG = "a" * 60 + "!"
CATASTROPHIC = r"(a|aa)+$"


def catastrophic(tmp_path, part):
    """A folder whose tokenizer.json has a regular expression that tries too many ways to match."""
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
