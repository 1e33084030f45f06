"""What a bridge is worth: everything that one can do with a big base and a small tuned model, on the same test items.

    items, models --Lineup, measuring--> records of a `Run` --metrics--> `summary.Evaluation` --> tables, JSON, page

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

from vocabridge.alignment import VocabridgeError
from vocabridge.combination import Combination
from vocabridge.contenders import IN_TURN, Contender, Lineup, Names
from vocabridge.evaluation_recipe import recipe
from vocabridge.kinds import Kind
from vocabridge.measuring import batches, choose, cost, read, write
from vocabridge.policy import Policy
from vocabridge.progress import Progress, unheard
from vocabridge.run import Run, Workers
from vocabridge.summary import SHOWN, Evaluation, summarize
from vocabridge.task import Task, Template, load_task

_LONGEST = 96  # tokens of an answer; three in four of the sample task's responses are shorter


def evaluate(
    base: str,
    value: str,
    data: str | Path,
    *,
    untuned: str | None = None,
    alignment: Path | None = None,
    validation: str | Path | None = None,
    combination: Path | None = None,
    policies: Sequence[Policy] = (Policy.LOOK_AHEAD,),
    ceiling: str | None = None,
    control: str | None = None,
    contenders: Sequence[Kind] | None = None,
    template: Template | None = None,
    limit: int | None = None,
    answers: int | None = None,
    max_new_tokens: int = _LONGEST,
    records: Path | None = None,
    device: str = "cpu",
    progress: Progress = unheard,
) -> Evaluation:
    """Measures a bridge beside all else that can be made of the same models.

    Under a launcher of several processes (`accelerate launch`, `torchrun`) they share the items.

    Args:
        base: The base model by name.
        value: A value network's folder; with `untuned`, the tuned model of a contrast pair.
        untuned: The untuned model of the pair.
        data: Test items, as for `load_task`.
        alignment: As for `build_steering`.
        validation: Items on which weights, policy and threshold are chosen.
        combination: The bridge's weights; not together with `validation`.
        policies: Of the bridge; of several the best on the validation items.
        ceiling: The base model fine-tuned itself: a model by name, or a value network that was trained on it.
        control: A value network with the base's own vocabulary.
        contenders: Which to measure; by default all that can be made of what is given.
        template: How records become items.
        limit: Take the first so many test items.
        answers: Have only so many items answered; by default all that have a final answer, and where none has one, the
            few that a report shows.
        max_new_tokens: The longest answer.
        records: A folder in which results are kept as they come; the same call goes on with what is there. Without one
            they are kept until the call ends.
        device: Where the models go; of several processes on "cuda" each has a GPU of its own.
        progress: Told of every step.

    Raises:
        VocabridgeError: Something cannot be read or does not fit, test items stand in the validation file, or the
            folder holds another evaluation.
    """
    if validation is not None and combination is not None:
        raise VocabridgeError("weights are either fitted (validation) or given (combination); leave one out")
    if validation is None and len(policies) > 1:
        raise VocabridgeError(
            "of several policies the best on validation items is taken; give --validation, or one policy"
        )
    workers, template = Workers(), template or Template()
    task = load_task(data, template, limit)
    held_out = [] if validation is None else load_task(validation, template).examples
    if seen := {example.text for example in held_out} & {example.text for example in task.examples}:
        raise VocabridgeError(
            f"{len(seen)} of the test items in {data} stand in {validation} too; remove them from one"
        )
    names = Names(base, value, untuned=untuned, alignment=alignment, ceiling=ceiling, control=control)
    weights = None if combination is None else Combination.load(combination)
    lineup = Lineup(
        names, held_out, combination=weights, policies=policies, device=workers.device(device), progress=progress
    )
    kinds = _asked(contenders, lineup)
    made_of = recipe(
        names,
        data,
        validation,
        template,
        combination=None if weights is None else weights.as_dict(),
        policies=[policy.value for policy in policies],
        limit=limit,
        answers=answers,
        max_new_tokens=max_new_tokens,
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
        source = value if untuned is None else f"{value} - {untuned}"
        return summarize(base, source, Path(str(data)).name, task, run, kinds, made_of)


def _asked(contenders: Sequence[Kind] | None, lineup: Lineup) -> list[Kind]:
    """The contenders to measure, in the order of tables."""
    possible = lineup.possible()
    if contenders is None:
        return possible
    needs = {Kind.CEILING: "ceiling", Kind.CONTROL: "control"}
    for kind in contenders:
        if kind not in possible:
            raise VocabridgeError(f"the contender {kind.value} needs --{needs.get(kind, 'validation')}; give it")
    return [kind for kind in Kind if kind in contenders]


def _measure(
    kind: Kind, lineup: Lineup, task: Task, run: Run, *, answers: int | None, max_new_tokens: int, tell: Progress
) -> None:
    """Measures what is not there yet of one contender; this process's share of it."""
    examples, name = task.examples, kind.label
    asked = [i for i, example in enumerate(examples) if example.answer is not None] or [*range(len(examples))][:SHOWN]
    asked = asked[:answers]
    choosing = [i for i, item in enumerate(task.items) if item.choices]
    work: list[tuple[str, str, list[list[int]], Callable[[Contender, list[int]], list[dict[str, Any]]]]] = [
        (
            "reading",
            "reading responses",
            [[i] for i in range(len(examples))],
            lambda one, unit: [read(one, examples[i]) for i in unit],
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
            batches(examples, asked),
            lambda one, unit: write(one, [examples[i] for i in unit], task.extractor, max_new_tokens),
        ),
    ]
    pending = {part: run.pending(name, part, units) for part, _, units, _ in work}
    priced = run.get(name, "cost") is not None
    run.workers.wait()  # until all have seen what is to do
    if priced and not any(pending.values()):
        return
    contender = lineup.make(kind, run)
    for part, what, _, measure in work:
        mine = pending[part][run.workers.rank :: run.workers.count]
        for number, unit in enumerate(mine, start=1):
            run.append(name, part, dict(zip(unit, measure(contender, unit), strict=True)))
            tell(number, len(mine), f"{name}: {what}")
    run.workers.wait()  # what is timed is timed alone
    if run.workers.is_first and not priced:
        run.append(name, "cost", {None: cost(contender, examples[0])})
    run.workers.wait()
    run.reload()
