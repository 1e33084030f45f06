"""The audit's HTML page is self-contained, safe with any token, and complete."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest
from figure_texts import texts_cut_off
from tokenizers import Tokenizer

from vocabridge.alignment import Audit, Corpus, VocabridgeError, Vocabulary, align
from vocabridge.alignment.audit.digits import Grouping
from vocabridge.diagnostics import audit_html
from vocabridge.diagnostics.audit_html import write_audit_page
from vocabridge.diagnostics.audit_tables import Tables

NASTY = "<script>alert(1)</script>"


class PageParser(HTMLParser):
    """Collects what a browser would see of a page: its elements, the addresses in it, its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.addresses.append(value)
            assert not name.startswith("on")

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def audit(tokenizer_folders, tmp_path_factory):
    """Audit tokenizers; one of the target's tokens is an HTML script."""
    spec = json.loads((tokenizer_folders.target / "tokenizer.json").read_text())
    spec["added_tokens"].append(
        {
            "id": 700,
            "content": NASTY,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
    )
    source = Vocabulary.load(tokenizer_folders.source)
    target = Vocabulary.from_tokenizer(Tokenizer.from_str(json.dumps(spec)), name="<b>named</b>")
    path = tmp_path_factory.mktemp("audit") / "text.txt"
    path.write_text(f"The dogs watch 12 lazy foxes: cafés {NASTY} 東京 🙂.\n" * 20, encoding="utf-8")
    corpus = Corpus.open([path])
    return Audit.of(align(source, target, corpus=corpus, cache=False), source, target, corpus)


@pytest.fixture(scope="module")
def page(audit, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "audit.html"
    write_audit_page(audit, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(page):
    parser = PageParser()
    parser.feed(page)
    return parser


def test_the_page_loads_nothing_and_runs_nothing(page, parsed):
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    assert parsed.addresses  # glyphs and clips of the figures
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    # Only the names of SVG's namespaces are left, which no browser fetches.
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_tokens_and_names_are_text_and_not_markup(audit, page, parsed):
    assert NASTY in [loss.target.text for loss in audit.worst]
    assert NASTY not in page
    assert NASTY in "".join(parsed.text)
    assert "b" not in parsed.tags
    assert "<b>named</b>" in "".join(parsed.text)


def test_the_page_has_its_plots_with_units_and_its_tables(audit, page, parsed):
    assert parsed.tags.count("figure") == parsed.tags.count("svg") == 4
    assert parsed.tags.count("table") == len(Tables.of(audit).all()) == 9
    for words in ("Overlap", "Where the mass goes", "Fertility", "Entries", "Digits"):
        assert words in "".join(parsed.text)


def test_no_text_of_a_plot_is_cut_off(audit, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(audit_html, "svg", lambda figure, description: drawn.append(figure) or "")
    write_audit_page(audit, tmp_path / "audit.html")
    assert len(drawn) == 4
    assert [texts_cut_off(figure) for figure in drawn] == [[]] * 4


def test_the_page_has_a_dark_mode_and_texts_in_place_of_its_figures(page):
    assert "prefers-color-scheme: dark" in page
    assert page.count('role="img" aria-label="') == page.count("<svg") == 4


def test_every_table_has_a_cell_for_every_column(audit):
    for table in Tables.of(audit).all():
        assert {len(row) for row in table.rows} == {len(table.header)}, table.title


def test_the_tables_have_the_figures_of_the_audit(audit):
    tables = Tables.of(audit)
    row = dict(zip(tables.target_mass.header, tables.target_mass.rows[0], strict=True))
    assert row["class"] == "words"
    assert row["tokens"] == f"{audit.targets[0].common:,}"
    assert row["arrives"] == f"{audit.targets[0].arriving:.1%}"
    assert row["class gets"] == f"{audit.balances[0].share:.1%}"
    assert "class gets" not in tables.source_mass.header
    assert tables.targets.rows[0][3] == f"{audit.targets[0].occurrences:,}"
    assert tables.targets.rows[-1][0] == "all"
    assert tables.digits.rows[0] == ("a run of digits", Grouping.SINGLE.value, audit.target_digits.grouping.value)


def test_without_matplotlib_there_is_one_sentence_and_no_page(audit, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(VocabridgeError, match=r"vocabridge\[report\]"):
        write_audit_page(audit, tmp_path / "audit.html")
    assert not (tmp_path / "audit.html").exists()
