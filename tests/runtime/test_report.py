"""The report's page: whole in itself, safe with any text, and with all its parts."""

from __future__ import annotations

import re

import pytest

from vocabridge.alignment import VocabridgeError
from vocabridge.gains_by_class import ClassBits
from vocabridge.intervals import Interval
from vocabridge.report import write_report
from vocabridge.summary import Difference, Evaluation, Measured, Sample

NASTY = "<script>alert(1)</script>"
FIT = {
    "combination": {"carry": "informed", "form": "mixture", "base": 0.3, "tuned": 0.7, "untuned": 0.0},
    "bits": 1.25,
    "paper_bits": None,
    "policy": "look-ahead",
}


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
    bits = {"base": 0.9, "bridge": 0.6, "ceiling": 0.3}
    reading = {"bits": [3.0, 1.0], "ends": [4, len(NASTY) + 1], "likeliest": [" a", NASTY]}
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
            measured("bridge", 0.6, gap_recovered=Interval(0.5, 0.4, 0.6), setting={**FIT, "fits": [FIT]}),
            measured("ceiling", 0.3, gap_recovered=Interval(1, 1, 1)),
        ],
        differences=[Difference("base", "bits per byte", True, Interval(-0.3, -0.4, -0.2))],
        classes=[ClassBits("words", 2, bits), ClassBits("common boundary", 2, bits)],
        samples=[
            Sample(
                prompt=NASTY,
                reference=" " + NASTY,
                generations={"base": NASTY, "bridge": "fine"},
                readings={"base": reading, "bridge": reading | {"bits": [1.0, 2.0], "likeliest": [" <", NASTY]}},
            )
        ],
        recipe={"limit": None, "prompt": "{prompt}"},
    )


def test_the_page_is_whole_in_itself_and_safe(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert NASTY not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert page.count("<svg") == 4  # bits, gap recovered, quality against cost, classes
    for part in ("Gap recovered", "Quality against cost", "By class of token", "What was chosen", "common boundary"):
        assert part in page


def test_every_token_of_a_response_says_what_the_bridge_changed(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    (read,) = re.findall('<p class="read">(.*?)</p>', page)
    spans = re.findall(r'<span( class="other")? style="background:rgba\((.*?)\)" title="(.*?)">(.*?)</span>', read)
    assert len(spans) == 2
    likelier, less = spans
    assert likelier[1].startswith("11, 99, 165")
    assert less[1].startswith("192, 57, 43")
    assert (likelier[0], less[0]) == (' class="other"', "")
    assert likelier[2].startswith("bits 3.00 to 1.00")
    assert likelier[3] + less[3] == " &lt;script&gt;alert(1)&lt;/script&gt;"


def test_without_matplotlib_the_page_says_what_to_install(evaluation, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(VocabridgeError, match=r"vocabridge\[report\]"):
        write_report(evaluation, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
