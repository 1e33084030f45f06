"""The pieces of a corpus join to the text, whatever its shape, and an unreadable file is named."""

from __future__ import annotations

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Corpus, Shard, VocabridgeError
from vocabridge.alignment import corpus as module


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "one line\n" * 40_000,
        "no line at all " * 20_000,
        "日本語" * 60_000,
        "👍🏽" * 50_000,
        "\n" * 200_000,
        " " * 200_000,
        "a\n" + "x" * 300_000,
        "def f():\n\n    return 1\n\n\n" * 9_000,
    ],
    ids=range(8),
)
def test_pieces_join_to_the_text_and_are_small(write, text):
    pieces = list(Corpus.open([write("t.txt", text)]).chunks())
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= 2 * module.PIECE


@settings(max_examples=examples(50))
@given(text=st.text(st.sampled_from("ab \n\té日👍"), min_size=1, max_size=200), piece=st.integers(1, 40))
def test_pieces_join_to_the_text_for_any_text_and_any_size_of_piece(tmp_path_factory, text, piece):
    path = tmp_path_factory.mktemp("c") / "t.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        assert "".join(Corpus.open([path]).chunks()) == text


def test_a_piece_ends_after_a_line_and_never_before_an_indent(write):
    text = "if x:\n    y\n\n\n" * 20_000
    *pieces, _ = Corpus.open([write("t.txt", text)]).chunks()
    assert all(piece.endswith("\n\n\n") for piece in pieces)


def test_a_folder_stands_for_all_its_files_in_order_without_hidden_ones(write, tmp_path):
    for name in ("d/b.txt", "d/a/z.txt", "d/.git/x", "d/.hidden"):
        write(name, name)
    corpus = Corpus.open([tmp_path / "d"])
    assert [str(file.relative_to(tmp_path)) for file in corpus.files] == ["d/a/z.txt", "d/b.txt"]
    assert corpus.card.files == 2
    assert corpus.card.bytes == len("d/b.txt" + "d/a/z.txt")


def test_the_digest_depends_on_contents_and_order_but_not_on_names(write):
    a, b, twin = write("a", "x"), write("b", "y"), write("c", "x")
    assert Corpus.open([a]).digest == Corpus.open([twin]).digest
    assert Corpus.open([a, b]).digest != Corpus.open([b, a]).digest
    assert Corpus.open([write("d", "xy")]).digest != Corpus.open([a, b]).digest


@pytest.mark.parametrize("before", [0, 5, module.PIECE - 1, module.PIECE, module.PIECE + 3])
def test_text_that_is_not_utf8_is_an_error_that_names_the_byte(write, before):
    path = write("bad.txt", b"x" * before + b"\xc3(" + b"y" * 9)
    with pytest.raises(VocabridgeError, match=rf"bad\.txt: not UTF-8 text at byte {before};"):
        list(Corpus.open([path]).chunks())


def test_a_file_that_ends_in_half_a_character_is_an_error(write):
    path = write("cut.txt", "é👍".encode()[:-1])
    with pytest.raises(VocabridgeError, match=r"cut\.txt: ends in the middle of a character at byte 2"):
        list(Corpus.open([path]).chunks())


def test_an_empty_corpus_and_a_missing_file_are_errors(write, tmp_path):
    with pytest.raises(VocabridgeError, match=r"corpus is empty \(.*empty\.txt\)"):
        Corpus.open([write("empty.txt", "")])
    with pytest.raises(VocabridgeError, match=r"corpus is empty \(no file\)"):
        Corpus.open([])
    with pytest.raises(VocabridgeError, match=r"none\.txt: no such corpus file"):
        Corpus.open([tmp_path / "none.txt"])


@settings(max_examples=examples(50))
@given(pieces=st.integers(1, 30), of=st.integers(1, 9), parts=st.integers(1, 5))
def test_every_piece_is_in_one_shard_and_in_one_part_of_it(tmp_path_factory, pieces, of, parts):
    folder = tmp_path_factory.mktemp("c")
    for number in range(pieces):
        (folder / f"{number:02}").write_text(f"{number}\n")
    corpus = Corpus.open([folder])
    all_pieces = list(corpus.chunks())
    for number in range(of):
        shard = Shard(number + 1, of)
        assert list(corpus.chunks(shard)) == all_pieces[number::of]
        for part in range(parts):
            assert list(corpus.chunks(shard.part(part + 1, parts))) == all_pieces[number::of][part::parts]


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "1 /4", "a/b", "१/४"])
def test_an_invalid_shard_is_an_error(text):
    with pytest.raises(VocabridgeError, match=r"shard.*(1/8)"):
        Shard.parse(text)


def test_the_text_of_a_shard_parses_to_the_same_shard():
    assert Shard.parse("3/8") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"


def test_the_number_of_processes_is_not_part_of_a_corpus(write):
    corpus = Corpus.open([write("a", "x")])
    assert corpus.in_processes(4) == corpus
    assert corpus.in_processes(4).card == corpus.card
