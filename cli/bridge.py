"""`vocabridge bridge`: a base model and what steers it, as a folder that `generate` and `vocabridge.load` take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vocabridge.cli._options import A_VALUE_NETWORK, Base, as_usage, number, output_folder
from vocabridge.cli._output import Json, print_facts, print_json, progress, say_unfitted
from vocabridge.options import BoundaryPolicy
from vocabridge.utils.ranges import FRACTION

EXAMPLES = """\b
Examples:
  vocabridge bridge -o my-bridge --base gemma-3-270m --value gsm-symbolic-smollm2-135m
  vocabridge bridge -o my-bridge --base gemma-3-270m --value my-values --combination report.json
  vocabridge bridge -o my-bridge --base ./big --value ./small-chat --untuned ./small --strength 1:0.2:64
\b
Two sources; the first is an expert pair, the second a value network, and "-" stands for none:
  vocabridge bridge -o my-bridge --base ./big --value ./small-chat --untuned ./small --strength 0.7 \\
    --value my-values --untuned - --strength 0.3
"""

T = TypeVar("T", str, Path)


def are_files(paths: list[Path] | None) -> list[Path] | None:
    """Refuse a file that is not there."""
    for path in paths or ():
        if str(path) != "-" and (not path.exists() or path.is_dir()):
            raise typer.BadParameter(f"File '{path}' does not exist.")
    return paths


def bridge(  # Long because each option is a parameter, with its help
    output: Annotated[Path, output_folder("Folder to write the bridge to.")],
    base: Base,
    value: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help=f"What steers: {A_VALUE_NETWORK}; with --untuned, the tuned small model, or a PEFT adapter of it. "
            "Give it again for one more source, and the options for each source as often, in the same order.",
        ),
    ],
    untuned: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="The small model before tuning: what tuning changed in it steers the base."),
    ] = None,
    alignment: Annotated[
        list[Path] | None,
        typer.Option(
            callback=are_files,
            metavar="FILE",
            help="An alignment of the two. Without it: from the cache, or built.",
        ),
    ] = None,
    combination: Annotated[
        list[Path] | None,
        typer.Option(
            callback=are_files,
            metavar="FILE",
            help="Fitted weights: a report that `eval -o` wrote. Without it: weights that suit most sources.",
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ALPHA", help="0 is the base alone, 1 the default; start:end:tokens changes while it writes."
        ),
    ] = None,
    policy: Annotated[
        BoundaryPolicy, typer.Option(help="What a source says where its tokens and the base's do not end together.")
    ] = BoundaryPolicy.LOOKAHEAD,
    plausibility_threshold: Annotated[
        float, number(FRACTION, "Tokens under this fraction of the base's best probability stay out; 0 is off.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Make a bridge: a base model and the small models that steer it.

    The folder holds the alignments and the value networks that are adapters; other models are referred to, with
    what tells that they are still the same. Everything is loaded once, so that what is written works.
    """
    sources = list(
        zip(
            value,
            for_each("--untuned", untuned, value),
            for_each("--alignment", alignment, value),
            for_each("--combination", combination, value),
            for_each("--strength", strength, value),
            strict=True,
        )
    )
    from vocabridge.alignment.errors import Effect, warn_idle
    from vocabridge.bridge.build import build_steering, check_steering
    from vocabridge.bridge.limits import SteeringLimits
    from vocabridge.bridge.model import Bridge
    from vocabridge.bridge.saving import check_free, save_bridge
    from vocabridge.models.loading import check_model, load_model
    from vocabridge.projection import strength as alpha

    limits = SteeringLimits(plausibility_threshold)
    with as_usage("--strength"):
        strengths = [1.0 if text is None else alpha.parse(text) for *_, text in sources]
    advice = "every strength is 0, so that nothing steers; raise --strength"
    unset = SteeringLimits().as_dict()
    given = {name: value != unset[name] for name, value in limits.as_dict().items()}
    given["policy"] = policy != BoundaryPolicy.LOOKAHEAD
    steers = any(strength != 0 for strength in strengths)
    warn_idle(*(Effect(name, is_given, steers, advice) for name, is_given in given.items()))
    check_free(output)
    check_model(base)
    for name, before, matrix, weights, _ in sources:
        check_steering(name, untuned=before, alignment=matrix, combination=weights)
    with progress(f"loading {base}") as tell:
        target = load_model(base)
        steerings = []
        for number, (name, before, matrix, weights, _) in enumerate(sources):
            tell(number, len(sources), f"loading {name}")
            steerings.append(
                build_steering(
                    target.vocabulary,
                    name,
                    untuned=before,
                    alignment=matrix,
                    combination=weights,
                    policy=policy,
                    strength=strengths[number],
                )
            )
        save_bridge(Bridge(target, steerings, limits), output)
    say_unfitted(one.combination for one in steerings)
    if json:
        described = [
            {
                "source": one.source.name,
                "combination": one.combination.as_dict(),
                "strength": alpha.as_json(one.strength),
            }
            for one in steerings
        ]
        print_json(
            {"bridge": output, "base": base, "policy": policy.value, "limits": limits.as_dict(), "steerings": described}
        )
        return
    facts: dict[str, object] = {"base": base}
    for number, (one, (*_, said)) in enumerate(zip(steerings, sources, strict=True), 1):
        how = one.combination
        numbers = f"{how.base_weight:g}, {how.tuned_weight:g}, {how.untuned_weight:g}"
        made = f"{how.method.value} {how.form.value} of weights {numbers}"
        facts[f"source {number}"] = f"{one.source.name}: {made}, strength {said or 1}"
    print_facts(f"bridge in {output}", facts)


def for_each(option: str, given: Sequence[T] | None, values: Sequence[str]) -> list[T | None]:
    """What an option says for each of the values; "-" stands for none, as does an option that is not there."""
    if not given:
        return [None] * len(values)
    if len(given) != len(values):
        raise typer.BadParameter(
            f"{option} is given {len(given)} times and --value {len(values)}; give it once for each, "
            f"in the same order, '-' for one without: {', '.join(values[len(given) :]) or 'there are too many'}."
        )
    return [None if str(one) == "-" else one for one in given]
