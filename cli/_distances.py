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
    from vocabridge.cli._vocabularies import recorded_vocabulary
    from vocabridge.diagnostics.approximation_error import distances
    from vocabridge.models.loading import check_model, load_model
    from vocabridge.models.value_network import check_value_source, load_value_network
    from vocabridge.models.value_network_files import is_value_network

    begin = perf_counter()
    with progress(f"comparing {file} with the exact predictions of {model}") as update:
        of_network = is_value_network(model)
        check_value_source(model) if of_network else check_model(model)
        vocabulary = recorded_vocabulary("target", target, alignment.target) if base is None or target else None
        base_model = None if base is None else load_model(base)
        if vocabulary is None:
            assert base_model is not None
            vocabulary = base_model.vocabulary
        alignment.fitted(target=vocabulary)  # raises an error before a model is loaded
        source = load_value_network(model) if of_network else load_model(model)
        (result,) = distances(
            source, vocabulary, {"": alignment}, corpus, base=base_model, positions=positions, progress=update
        ).values()
    if json:
        seconds = perf_counter() - begin
        print_json({"file": file, "bytes": corpus.bytes} | result.as_dict() | {"seconds": seconds})
        return
    rows = result.approximations
    among = "" if result.mass == 1 else f", among tokens that have {result.mass:.1%} of the base's mass"
    print_table(
        f"{result.model} -> {result.target} by {result.method}, against the exact distribution at "
        f"{count(result.positions)} tokens{among} (of it at most {result.open:.1%} is open and {result.lost:.1%} lost)",
        ("method", "policy", "KL, bits", "total variation", "same most likely", "inactive at"),
        [
            (row.method.value, row.policy.value, *_figures(row.overall), f"{row.inactive / result.positions:.1%}")
            for row in rows
        ],
    )
    by_class = {c.label: [row.by_class[c] for row in rows] for c in rows[0].classes}
    by_relation = {relation.value: [row.by_relation[relation] for row in rows] for relation in rows[0].relations}
    for title, parts in (("class of target token", by_class), ("span relation", by_relation)):
        print_table(
            f"KL in bits by {title}",
            ("", "tokens", *(f"{row.method.value} {row.policy.value}" for row in rows)),
            [
                (name, count(part[0].positions), *(f"{distance.mean_kl:.3f}" for distance in part))
                for name, part in parts.items()
            ],
        )


def _figures(distance: ApproximationError) -> tuple[str, str, str]:
    return f"{distance.mean_kl:.3f}", f"{distance.mean_variation:.3f}", f"{distance.agreement:.1%}"
