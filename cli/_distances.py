"""`vocabridge score --against-exact`: how far projected predictions are from the exact distribution."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from vocabridge.cli._output import count, print_json, print_table, progress

if TYPE_CHECKING:
    from vocabridge.alignment import Alignment, Corpus
    from vocabridge.diagnostics.approximation_error import ApproximationError


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
    """Compare projections by an alignment with the exact distribution, and print the errors."""
    from vocabridge.cli._vocabularies import remembered
    from vocabridge.diagnostics.approximation_error import distances
    from vocabridge.models.loading import check_model, load_model
    from vocabridge.models.value_network import check_value_source, load_value_network
    from vocabridge.models.value_network_files import is_value_network

    begin = perf_counter()
    with progress(f"comparing {file} with the exact predictions of {model}") as tell:
        of_network = is_value_network(model)
        check_value_source(model) if of_network else check_model(model)
        vocabulary = remembered("target", target, alignment.target) if base is None or target else None
        asked = None if base is None else load_model(base)
        if vocabulary is None:
            assert asked is not None
            vocabulary = asked.vocabulary
        alignment.fitted(target=vocabulary)  # or an error, before a model is loaded
        source = load_value_network(model) if of_network else load_model(model)
        (found,) = distances(
            source, vocabulary, {"": alignment}, corpus, base=asked, positions=positions, progress=tell
        ).values()
    if json:
        seconds = perf_counter() - begin
        print_json({"file": file, "bytes": corpus.bytes} | found.as_dict() | {"seconds": seconds})
        return
    rows = found.approximations
    among = "" if found.mass == 1 else f", among tokens that have {found.mass:.1%} of the base's mass"
    print_table(
        f"{found.model} -> {found.target} by {found.method}, against the exact distribution at "
        f"{count(found.positions)} tokens{among} (of it at most {found.open:.1%} is open and {found.lost:.1%} lost)",
        ("method", "policy", "KL, bits", "total variation", "same most likely", "inactive at"),
        [
            (one.method.value, one.policy.value, *_figures(one.overall), f"{one.inactive / found.positions:.1%}")
            for one in rows
        ],
    )
    by_class = {c.label: [one.by_class[c] for one in rows] for c in rows[0].classes}
    by_relation = {relation.value: [one.by_relation[relation] for one in rows] for relation in rows[0].relations}
    for title, parts in (("class of target token", by_class), ("how the tokens lie", by_relation)):
        print_table(
            f"KL in bits by {title}",
            ("", "tokens", *(f"{one.method.value} {one.policy.value}" for one in rows)),
            [
                (name, count(part[0].positions), *(f"{distance.mean_kl:.3f}" for distance in part))
                for name, part in parts.items()
            ],
        )


def _figures(distance: ApproximationError) -> tuple[str, str, str]:
    return f"{distance.mean_kl:.3f}", f"{distance.mean_variation:.3f}", f"{distance.agreement:.1%}"
