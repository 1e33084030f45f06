"""`vocabridge score --exact`: how far what is carried is from the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from vocabridge.cli.output import count, print_json, print_table, progress

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment, Corpus
    from vocabridge.distance import Approximation, Distance


def compare(
    file: Path,
    alignment: Alignment,
    corpus: Corpus,
    *,
    model: str,
    target: str | None,
    base: str | None,
    positions: int,
    json: bool,
) -> None:
    """Compare the approximations by an alignment with the truth, and print it."""
    from vocabridge.cli.vocabularies import remembered
    from vocabridge.distance import distances
    from vocabridge.models import load_model

    begin = perf_counter()
    asked = None if base is None else load_model(base)
    vocabulary = remembered("target", target, alignment.target) if asked is None or target else asked.vocabulary
    with progress(f"comparing {file} with what {model} says exactly") as tell:
        found = distances(
            load_model(model), vocabulary, {"": alignment}, corpus, base=asked, positions=positions, progress=tell
        )[""]
    if json:
        seconds = perf_counter() - begin
        print_json({"file": file, "bytes": corpus.bytes} | found.as_dict() | {"seconds": seconds})
        return
    rows = found.approximations
    print_table(
        f"{found.model} -> {found.target} by {found.method}, against the truth at {count(found.positions)} tokens "
        f"(of it at most {found.open:.1%} is open and {found.lost:.1%} lost)",
        ("carry", "policy", "KL, bits", "total variation", "same likeliest", "silent at"),
        [
            (one.carry.value, one.policy.value, *_figures(one.overall), f"{one.silent / found.positions:.1%}")
            for one in rows
        ],
    )
    print_parts(
        "KL in bits by class of target token", rows, {c.label: lambda a, c=c: a.by_class[c] for c in found.classes}
    )
    print_parts("KL in bits by how the tokens lie", rows, {f.value: lambda a, f=f: a.by_fit[f] for f in found.fits})


def print_parts(title: str, rows: list[Approximation], parts: dict[str, Callable[[Approximation], Distance]]) -> None:
    """One row a part of the text, one column a carry and policy."""
    print_table(
        title,
        ("", "tokens", *(f"{one.carry.value} {one.policy.value}" for one in rows)),
        [
            (name, count(part(rows[0]).positions), *(f"{part(one).mean_kl:.3f}" for one in rows))
            for name, part in parts.items()
        ],
    )


def _figures(distance: Distance) -> tuple[str, str, str]:
    return f"{distance.mean_kl:.3f}", f"{distance.mean_variation:.3f}", f"{distance.agreement:.1%}"
