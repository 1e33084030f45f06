"""`vocabridge bridge`: write a bridge, a base model and its value sources, to a folder that `generate` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vocabridge.cli._options import A_VALUE_NETWORK, Base, as_usage, number, output_folder
from vocabridge.cli._output import Json, note_unfitted, print_facts, print_json, progress
from vocabridge.options import BoundaryPolicy
from vocabridge.utils.ranges import FRACTION

EXAMPLES = """\b
Examples:
  vocabridge bridge -o my-bridge --base gemma-3-270m --value gsm-symbolic-smollm2-135m
  vocabridge bridge -o my-bridge --base gemma-3-270m --value my-values --combination report.json
  vocabridge bridge -o my-bridge --base ./big --value ./small-chat --untuned ./small --strength 1:0.2:64
\b
Two value sources, an expert pair and a value network; "-" stands for none:
  vocabridge bridge -o my-bridge --base ./big --value ./small-chat --untuned ./small --strength 0.7 \\
    --value my-values --untuned - --strength 0.3
"""

T = TypeVar("T", str, Path)


def are_files(paths: list[Path] | None) -> list[Path] | None:
    """Refuse a missing file; "-" stands for none."""
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
            help=f"The value source: {A_VALUE_NETWORK}. With --untuned, the tuned small model, or a PEFT adapter of "
            "the untuned one. For several sources, repeat --value, and repeat the options of a source as often, in the "
            "same order.",
        ),
    ],
    untuned: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The small model before tuning. The difference that tuning made steers the base model.",
        ),
    ] = None,
    alignment: Annotated[
        list[Path] | None,
        typer.Option(
            callback=are_files,
            metavar="FILE",
            help="An alignment of the two vocabularies. By default it comes from the cache, or is built.",
        ),
    ] = None,
    combination: Annotated[
        list[Path] | None,
        typer.Option(
            callback=are_files,
            metavar="FILE",
            help="A report of `eval -o`, whose fitted weights are used. By default weights that suit most sources.",
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ALPHA",
            help="Strength of the steering: 0 is the base alone, 1 the default. START:END:TOKENS changes it from START "
            "to END over that many tokens.",
        ),
    ] = None,
    policy: Annotated[
        BoundaryPolicy, typer.Option(help="How a source predicts where its tokens and the base's do not end together.")
    ] = BoundaryPolicy.LOOKAHEAD,
    plausibility_threshold: Annotated[
        float, number(FRACTION, "Exclude tokens below this fraction of the base's best probability; 0 is off.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Make a bridge: a base model and the small models that steer it.

    The folder holds the alignments, and the value networks that are adapters. Other models are named, with a digest or
    commit that identifies them. All models are loaded once, to check that the bridge works.
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
    for name, untuned_name, matrix, weights, _ in sources:
        check_steering(name, untuned=untuned_name, alignment=matrix, combination=weights)
    with progress(f"loading {base}") as update:
        target = load_model(base)
        steerings = []
        for number, (name, untuned_name, matrix, weights, _) in enumerate(sources):
            update(number, len(sources), f"loading {name}")
            steerings.append(
                build_steering(
                    target.vocabulary,
                    name,
                    untuned=untuned_name,
                    alignment=matrix,
                    combination=weights,
                    policy=policy,
                    strength=strengths[number],
                )
            )
        save_bridge(Bridge(target, steerings, limits), output)
    note_unfitted(steering.combination for steering in steerings)
    if json:
        documents = [
            {
                "source": steering.source.name,
                "combination": steering.combination.as_dict(),
                "strength": alpha.as_json(steering.strength),
            }
            for steering in steerings
        ]
        print_json(
            {"bridge": output, "base": base, "policy": policy.value, "limits": limits.as_dict(), "steerings": documents}
        )
        return
    facts: dict[str, object] = {"base": base}
    for number, (steering, (*_, strength_text)) in enumerate(zip(steerings, sources, strict=True), 1):
        fit = steering.combination
        values = f"{fit.base_weight:g}, {fit.tuned_weight:g}, {fit.untuned_weight:g}"
        setting = f"{fit.method.value} {fit.form.value}, weights {values}, strength {strength_text or 1}"
        facts[f"source {number}"] = f"{steering.source.name}: {setting}"
    print_facts(f"bridge in {output}", facts)


def for_each(option: str, given: Sequence[T] | None, values: Sequence[str]) -> list[T | None]:
    """Return an option's value for each of the sources; it is None for "-", and if the option is not given.

    Args:
        option: The name of the option.
        given: The values of the option.
        values: The values of --value.
    """
    if not given:
        return [None] * len(values)
    if len(given) != len(values):
        raise typer.BadParameter(
            f"{option} is given {len(given)} times and --value {len(values)}; give it once for each, "
            f"in the same order, '-' for one without: {', '.join(values[len(given) :]) or 'there are too many'}."
        )
    return [None if str(value) == "-" else value for value in given]
