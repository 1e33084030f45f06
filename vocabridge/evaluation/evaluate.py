"""What a bridge is worth: everything that one can do with a big base and a small tuned model, on the same test items.

    items, models --contenders, measuring--> records of a `Run` --metrics--> `results.Evaluation` --> tables, JSON, page

Every contender reads the same responses and continues the same prompts with the same budget, greedily. Every figure
comes with a 95% interval from resampling the items (whole templates, where items share one), every difference is
paired. What is fitted or chosen is so on validation items; the test items are seen once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from vocabridge.alignment import Effect, VocabridgeError, refuse_idle, warn_idle
from vocabridge.byte_level.byte_lm import TOLERANCE
from vocabridge.evaluation.contenders import IN_TURN, ContenderFactory
from vocabridge.evaluation.fingerprint import recipe
from vocabridge.evaluation.measuring import batches, choose, cost
from vocabridge.evaluation.model_pool import Names
from vocabridge.evaluation.results import SHOWN, Evaluation, summarize
from vocabridge.evaluation.run_store import Run, Workers
from vocabridge.evaluation.scoring import EvaluatedModel
from vocabridge.evaluation.tasks import Task, Template, load_task
from vocabridge.options import BoundaryPolicy, Contender
from vocabridge.projection.combination import Combination
from vocabridge.utils.progress import Progress, no_progress
from vocabridge.utils.ranges import COUNT, COUNT_OR_NONE, STRENGTH, TOLERANCES

_LONGEST = 96  # tokens of an answer; three in four of the sample task's responses are shorter
_BATCH = 17  # answers generated at once


def evaluate(  # Long because each setting is a parameter, documented and checked
    data: str | Path,
    *,
    base: str | None = None,
    value: str | None = None,
    untuned: str | None = None,
    alignment: Path | None = None,
    bridge: Path | None = None,
    validation: str | Path | None = None,
    combination: Path | None = None,
    policies: Sequence[BoundaryPolicy] = (BoundaryPolicy.LOOKAHEAD,),
    alphas: Sequence[float] = (1.0,),
    tolerance: float = TOLERANCE,
    ceiling: str | None = None,
    control: str | None = None,
    contenders: Sequence[Contender] | None = None,
    template: Template | None = None,
    limit: int | None = None,
    answers: int | None = None,
    max_new_tokens: int = _LONGEST,
    records: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measures a bridge beside all else that can be made of the same models.

    Under a launcher of several processes (`accelerate launch`, `torchrun`) they share the items.

    Args:
        data: Test items, as for `load_task`.
        base: The base model by name.
        value: A value network's folder; with `untuned`, the tuned model of an expert pair.
        untuned: The untuned model of the pair.
        alignment: As for `build_steering`.
        bridge: A saved bridge, which is measured as it is: in place of base, value, untuned, alignment, combination,
            policies and alphas.
        validation: Items on which weights, policy, strength and threshold are chosen.
        combination: The bridge's weights, which are then not fitted.
        policies: Of the bridge; of several the best on the validation items.
        alphas: Its strengths; likewise.
        tolerance: Of the byte-level bridge, as for `ByteLM`.
        ceiling: The base model fine-tuned itself: a model by name, or a value network that was trained on it.
        control: A value network with the base's own vocabulary.
        contenders: Which to measure; by default all that can be made of what is given, but for the byte-level bridge,
            which is slow.
        template: How records become items.
        limit: Take the first so many test items.
        answers: Have only so many items answered; by default all that have a final answer, and where none has one, the
            few that a report shows.
        max_new_tokens: The longest answer.
        records: A folder in which results are kept as they come; the same call goes on with what is there. Without one
            they are kept until the call ends.
        device: Where the models go; of several processes on "cuda" each has a GPU of its own.
        dtype: What the weights of all models are cast to.
        progress: Told of every step.

    Raises:
        VocabridgeError: Something cannot be read or does not fit, test items stand in the validation file, the
            folder holds another evaluation, or a setting has no effect.
    """
    for name, number, range_ in (
        ("limit", limit, COUNT),
        ("answers", answers, COUNT_OR_NONE),
        ("max_new_tokens", max_new_tokens, COUNT),
        ("tolerance", tolerance, TOLERANCES),
        *(("alpha", alpha, STRENGTH) for alpha in alphas),
    ):
        if number is not None:
            range_.check(name, number)
    for several, what in ((policies, "policies"), (alphas, "alphas")):
        if validation is None and len(several) > 1:
            raise VocabridgeError(
                f"of several {what} the best on validation items is taken; give --validation, or one of them"
            )
    if bridge is not None and (combination, *policies, *alphas) != (None, BoundaryPolicy.LOOKAHEAD, 1.0):
        raise VocabridgeError("a saved bridge has a combination, a policy and a strength; give none of them beside it")
    workers, template = Workers(), template or Template()
    task = load_task(data, template, limit)
    held_out = [] if validation is None else load_task(validation, template).examples
    if seen := {example.text for example in held_out} & {example.text for example in task.examples}:
        raise VocabridgeError(
            f"{len(seen)} of the test items in {data} stand in {validation} too; remove them from one"
        )
    names = Names(base, value, untuned, alignment, bridge, ceiling, control)
    weights = None if combination is None else Combination.load(combination)
    lineup = ContenderFactory(
        names,
        held_out,
        combination=weights,
        policies=policies,
        alphas=alphas,
        tolerance=tolerance,
        device=workers.device(device),
        dtype=dtype,
        progress=progress,
    )
    names.check(lineup.parts.saved)
    kinds = _asked(contenders, lineup)
    chosen = bool(held_out) and bridge is None
    advice = "only the contender byte-level has one; add it, or leave this out"
    refuse_idle(Effect("tolerance", tolerance != TOLERANCE, Contender.BYTE_LEVEL in kinds, advice))
    _warn_idle(
        set(kinds),
        chosen=chosen,
        policy=tuple(policies) != (BoundaryPolicy.LOOKAHEAD,),
        alpha=tuple(alphas) != (1.0,),
        combination=combination is not None,
        alignment=alignment is not None,
        validation=validation is not None,
        ceiling=ceiling is not None,
        control=control is not None,
    )
    _judge_answers(task, template, data, answers, max_new_tokens)
    made_of = recipe(
        names,
        lineup.parts.saved,
        data,
        validation,
        template,
        combination=None if weights is None else weights.as_dict(),
        policies=[policy.value for policy in policies],
        alphas=[*alphas],
        limit=limit,
        answers=answers,
        max_new_tokens=max_new_tokens,
        dtype=str(dtype).removeprefix("torch."),
        **({"tolerance": tolerance} if Contender.BYTE_LEVEL in kinds else {}),
    )
    with ExitStack() as stack:
        if records is None:
            if workers.count > 1:
                raise VocabridgeError("several processes share a folder of records; name one with --records")
            records = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = Run(records, made_of, workers)
        stack.callback(run.close)
        for kind in IN_TURN:
            if kind in kinds:
                _measure(kind, lineup, task, run, answers=answers, max_new_tokens=max_new_tokens, tell=progress)
        target = lineup.parts.saved.base.name if lineup.parts.saved else str(base)
        return summarize(target, names.source, Path(str(data)).name, task, run, kinds, made_of)


def _warn_idle(kinds: set[Contender], *, chosen: bool, **given: bool) -> None:
    """Warns of settings that no contender has: who measures a few more contenders of a run has to repeat its settings.

    Args:
        kinds: The contenders.
        chosen: Whether the bridge is chosen on validation items; the byte-level bridge then has what was chosen.
        **given: The settings, and whether they are given.
    """
    bridges = {Contender.BRIDGE, Contender.BYTE_LEVEL}
    projected = {Contender.BRIDGE, Contender.MIXTURE, Contender.NUDGING, Contender.PROXY_TUNING}
    fitted = {Contender.MIXTURE, Contender.NUDGING, Contender.PROXY_TUNING, Contender.CONTROL}
    by_choice = bridges if chosen else {Contender.BRIDGE}
    users = {
        "policy": by_choice,
        "alpha": bridges,
        "combination": bridges,
        "alignment": projected | by_choice,
        "validation": fitted | (bridges if chosen else set()),
        "ceiling": {Contender.CEILING},
        "control": {Contender.CONTROL},
    }
    for name, users_of in users.items():
        names = ", ".join(kind.value for kind in Contender if kind in users_of)
        advice = f"none of the contenders has it; add one of them ({names}), or leave it out"
        warn_idle(Effect(name, given[name], bool(kinds & users_of), advice))


def _judge_answers(task: Task, template: Template, data: str | Path, answers: int | None, max_new_tokens: int) -> None:
    """Refuses settings of answers that nothing is compared with, and warns of those of answers that nobody writes."""
    written, extracts = answers != 0, template.extractor.pattern is not None
    own = (template.prompt, template.response) != (Template.prompt, Template.response)
    refuse_idle(
        Effect(
            "prompt", own, not str(data).startswith("reasoning-gym:"), f"{data} has its own templates; leave it out"
        ),
        Effect(
            "extract",
            extracts,
            any(example.answer is not None for example in task.examples),
            'no item has an answer to compare with; give the items an "answer", or a response template in which the '
            "pattern finds one",
        ),
    )
    advice = "no answers are written; ask for some with --answers"
    warn_idle(
        Effect("extract", extracts, written, advice),
        Effect("max_new_tokens", max_new_tokens != _LONGEST, written, advice),
    )


def _asked(contenders: Sequence[Contender] | None, lineup: ContenderFactory) -> list[Contender]:
    """The contenders to measure, in the order of tables."""
    missing = lineup.missing()
    if contenders is None:
        return [kind for kind in Contender if kind not in missing and kind is not Contender.BYTE_LEVEL]
    for kind in contenders:
        if kind in missing:
            raise VocabridgeError(f"the contender {kind.value} needs {missing[kind]}; give it")
    return [kind for kind in Contender if kind in contenders]


def _measure(
    kind: Contender,
    lineup: ContenderFactory,
    task: Task,
    run: Run,
    *,
    answers: int | None,
    max_new_tokens: int,
    tell: Progress,
) -> None:
    """Measures what is not there yet of one contender; this process's share of it."""
    examples, name = task.examples, kind.label
    asked = [i for i, example in enumerate(examples) if example.answer is not None] or [*range(len(examples))][:SHOWN]
    asked = asked[:answers]
    choosing = [i for i, item in enumerate(task.items) if item.choices]
    work: list[tuple[str, str, list[list[int]], Callable[[EvaluatedModel, list[int]], list[dict[str, Any]]]]] = [
        (
            "reading",
            "reading responses",
            [[i] for i in range(len(examples))],
            lambda one, unit: [one.read(examples[i]) for i in unit],
        ),
        (
            "choosing",
            "weighing choices",
            [[i] for i in choosing],
            lambda one, unit: [choose(one, task.items[i]) for i in unit],
        ),
        (
            "writing",
            "writing answers",
            batches(examples, asked, 1 if kind is Contender.BYTE_LEVEL else _BATCH),  # it writes one text at a time
            lambda one, unit: one.write([examples[i].prompt for i in unit], max_new_tokens, task.extractor),
        ),
    ]
    pending = {part: run.pending(name, part, units) for part, _, units, _ in work}
    priced = run.get(name, "cost") is not None
    run.workers.wait()  # until all have seen what is to do
    if priced and not any(pending.values()):
        return
    tell(0, 1, f"{name}: loading")
    contender = lineup.make(kind, run)
    for part, what, _, measure in work:
        mine = pending[part][run.workers.rank :: run.workers.count]
        for number, unit in enumerate(mine, start=1):
            run.append(name, part, dict(zip(unit, measure(contender, unit), strict=True)))
            tell(number, len(mine), f"{name}: {what}")
    run.workers.wait()  # what is timed is timed alone
    if run.workers.is_first and not priced:
        tell(0, 1, f"{name}: timing")
        run.append(name, "cost", {None: cost(contender, examples[0])})
    run.workers.wait()
    run.reload()
