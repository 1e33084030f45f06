"""The HTML report is self-contained, escapes any text, and has all its parts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from figure_texts import texts_cut_off

from vocabridge.alignment import VocabridgeError
from vocabridge.evaluation import html_report
from vocabridge.evaluation.html_report import write_report
from vocabridge.evaluation.intervals import Interval
from vocabridge.evaluation.results import Difference, Evaluation, Measured, Sample
from vocabridge.evaluation.token_classes import ClassBits

NASTY = "<script>alert(1)</script>"
FIT = {
    "combination": {
        "method": "informed",
        "form": "mixture",
        "base_weight": 0.3,
        "tuned_weight": 0.7,
        "untuned_weight": 0.0,
    },
    "bits": 1.25,
    "positions": 100,
    "paper_bits": None,
    "policy": "lookahead",
    "strength": 1.0,
}
BY_ALPHA = [{"alpha": 0.0, "bits": 1.75}, {"alpha": 1.0, "bits": 1.25}]


def measured(name, bits, **more):
    fields = {
        "accuracy": None,
        "choice_accuracy": None,
        "gap_recovered": None,
        "changed_tokens": 0.25,
        "first_token_ms": 80.0,
        "token_ms": 40.0,
        "peak_mb": 900.0,
        "setting": None,
    }
    return Measured(name=name, bits_per_byte=Interval(bits, bits - 0.1, bits + 0.1), **fields | more)


@pytest.fixture
def evaluation() -> Evaluation:
    bits = {"base": 0.9, "bridge": 0.6, "byte-level bridge": 0.5, "ceiling": 0.3}
    reading = {"bits": [3.0, 1.0], "ends": [4, len(NASTY) + 1], "most_likely": [" a", NASTY]}
    return Evaluation(
        base="big",
        value=NASTY,
        data="test.jsonl",
        items=2,
        templates=2,
        answered=0,
        chosen=0,
        seed=0,
        resamples=4000,
        combination=FIT["combination"],
        measured=[
            measured("base", 0.9),
            measured(
                "bridge",
                0.6,
                gap_recovered=Interval(0.5, 0.4, 0.6),
                setting={**FIT, "fits": [FIT], "by_alpha": BY_ALPHA},
            ),
            measured("byte-level bridge", 0.5, token_ms=9000.0, changed_tokens=None),
            measured("ceiling", 0.3, gap_recovered=Interval(1, 1, 1)),
        ],
        differences=[Difference("base", "bits per byte", True, Interval(-0.3, -0.4, -0.2))],
        classes=[ClassBits("words", 2, bits), ClassBits("common boundary", 2, bits)],
        samples=[
            Sample(
                prompt=NASTY,
                reference=" " + NASTY,
                generations={"base": NASTY, "bridge": "fine"},
                readings={"base": reading, "bridge": reading | {"bits": [1.0, 2.0], "most_likely": [" <", NASTY]}},
            )
        ],
        config={"limit": None, "prompt": "{prompt}"},
    )


class Page(HTMLParser):
    """Parses a page: its text, its unclosed tags, its ids and references to them, and the resources that it loads."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.ids, self.referred, self.loaded, self.words = [], [], set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_attributes(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.handle_attributes(tag, attrs)

    def handle_attributes(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "xlink:href", "src"):
                (self.referred.add(value[1:]) if value.startswith("#") else self.loaded.append(value))
            self.referred.update(re.findall(r"url\(#(.*?)\)", value or ""))
        if tag in ("script", "link", "iframe", "img"):
            self.loaded.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_well_formed_self_contained_and_escaped(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert NASTY not in page
    found = Page(page)
    assert found.open == found.loaded == []
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(set(found.ids)) == len(found.ids)
    assert found.referred <= {*found.ids}
    write_report(evaluation, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_the_page_has_all_plots_and_tables(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 5  # bits, gap recovered, quality against cost, classes, by alpha
    text = "".join(Page(page).words)
    for part in ("Gap recovered", "Quality against cost", "By class of token", "What was chosen", "common boundary"):
        assert part in text
    for row in (*evaluation.rows(), *evaluation.costs(), *evaluation.by_alpha()[1]):
        assert "".join(row) in text
    assert evaluation.by_alpha() == (("alpha", "0", "1"), [("bridge", "1.750", "1.250")])


def test_every_token_of_a_response_shows_what_the_bridge_changed(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    (response,) = re.findall('<p class="tokens">(.*?)</p>', page)
    spans = re.findall(r'<span( class="other")? style="background:rgba\((.*?)\)" title="(.*?)">(.*?)</span>', response)
    assert len(spans) == 2
    raised, lowered = spans
    assert raised[1].startswith("11, 99, 165")
    assert lowered[1].startswith("192, 57, 43")
    assert (raised[0], lowered[0]) == (' class="other"', "")
    assert raised[2].startswith("bits 3.00 to 1.00")
    assert raised[3] + lowered[3] == " &lt;script&gt;alert(1)&lt;/script&gt;"


def test_no_text_of_a_plot_is_cut_off(evaluation, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(html_report, "svg", lambda figure, description: drawn.append(figure) or "")
    write_report(evaluation, tmp_path / "report.html")
    assert len(drawn) == 5
    assert [texts_cut_off(figure) for figure in drawn] == [[]] * 5


def test_the_page_has_a_dark_mode_and_every_axis_says_which_direction_is_better(evaluation, tmp_path, monkeypatch):
    drawn = []
    draw = html_report.svg
    monkeypatch.setattr(
        html_report, "svg", lambda figure, description: drawn.append(figure) or draw(figure, description)
    )
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "prefers-color-scheme: dark" in page
    for figure in drawn:
        (axes,) = figure.axes
        assert re.search(r"(lower|higher) is better", axes.get_xlabel() + axes.get_ylabel())
    # Colors that do not follow the mode are those of lines and bars, which are legible in both.
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert {"#000000", "#ffffff"} & {*re.findall(r"#[0-9a-f]{6}\b", figures)} == set()
    assert page.count('role="img" aria-label="') == page.count("<svg")


def test_tables_scroll_where_the_page_is_narrow(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table>") == len(re.findall(r'<div class="table[^"]*"><table>', page)) > 0
    assert ".table { overflow-x: auto; }" in page


def test_without_matplotlib_an_error_names_what_to_install(evaluation, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(VocabridgeError, match=r"vocabridge\[report\]"):
        write_report(evaluation, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
