"""The page that follows `input_ids` through one step of `generate`, against what a step calls."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

import torch

import vocabridge

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "one-generate-step.md"
PACKAGE = Path(vocabridge.__file__).parent


def walk() -> list[tuple[str, list[str]]]:
    """Return the files of the page's table with their functions, in the table's order."""
    rows = re.findall(r"^\| `vocabridge/(\S+)` \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(file, re.findall(r"`(\w+)`", functions)) for file, functions in rows]


def calls(bridge) -> list[tuple[str, str]]:
    """Return the functions of the package that a step calls, with their files, in the order of the calls."""
    vocabulary, called = bridge.vocabulary, []
    context, more = (vocabulary.encode(text).ids.tolist() for text in ("The quick brown fo", "x"))

    def note(frame, event, _argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            called.append((path.relative_to(PACKAGE).as_posix(), frame.f_code.co_name))

    with torch.no_grad():
        cache = bridge(torch.tensor([vocabulary.bos_ids + context]), logits_to_keep=1).past_key_values
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            bridge(torch.tensor([more[:1]]), past_key_values=cache, logits_to_keep=1)
        finally:
            sys.setprofile(before)
    return called


def test_the_page_is_true_to_the_calls_of_a_step(parts):
    called = calls(parts.bridge())
    assert {(file, name) for file, names in walk() for name in names} <= set(called)
    entries = [called.index((file, names[0])) for file, names in walk()]
    assert entries == sorted(entries)


def test_following_input_ids_takes_at_most_nine_stays_and_one_return():
    stays = [file for file, _ in groupby(file for file, _ in walk())]
    assert len(stays) <= 9
    assert len(stays) - len(set(stays)) <= 1
