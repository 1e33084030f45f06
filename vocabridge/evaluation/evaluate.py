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

from vocabridge.alignment import Effect, VocabridgeError, refuse_idle, warn_idle
from vocabridge.byte_level.byte_lm import TOLERANCE
from vocabridge.evaluation.answers import Extractor
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.contenders import CONTENDERS, in_turn
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.fingerprint import fingerprint
from vocabridge.evaluation.measuring import batches, choose, cost
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.results import SHOWN, Evaluation, summarize
from vocabridge.evaluation.run_store import Run, Workers
from vocabridge.evaluation.scoring import EvaluatedModel
from vocabridge.evaluation.tasks import Task, Template, load_task
from vocabridge.models.examples import Example
from vocabridge.options import Contender
from vocabridge.utils.progress import Progress, no_progress


def evaluate(
    config: EvaluationConfig, *, records: Path | None = None, device: str = "cpu", progress: Progress = no_progress
) -> Evaluation:
    """Measure a bridge beside all else that can be made of the same models.

    Under a launcher of several processes (`accelerate launch`, `torchrun`) they share the items.

    Args:
        config: What to evaluate, and how.
        records: A folder in which results are kept as they come; the same call goes on with what is there. Without one
            they are kept until the call ends.
        device: Where the models go; of several processes on "cuda" each has a GPU of its own.
        progress: Called at every step.

    Raises:
        VocabridgeError: Something cannot be read or does not fit, test items stand in the validation file, the
            folder holds another evaluation, or a setting has no effect.
    """
    workers, template = Workers(), Template(config.prompt, config.response, Extractor(config.extract))
    task = load_task(config.data, template, config.limit)
    held_out = _held_out(config, template, task)
    pool = ModelPool(config, workers.device(device))
    pool.check()
    contenders = _asked(config.contenders, pool, validation=bool(held_out))
    _warn_idle(config, contenders, chosen=bool(held_out) and config.bridge is None)
    _judge_answers(config, task)
    tolerance = TOLERANCE if config.tolerance is None else config.tolerance
    made_of = fingerprint(
        config, pool.saved, **({"tolerance": tolerance} if Contender.BYTE_LEVEL in contenders else {})
    )
    with ExitStack() as stack:
        if records is None:
            if workers.count > 1:
                raise VocabridgeError("several processes share a folder of records; name one with --records")
            records = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = Run(records, made_of, workers)
        stack.callback(run.close)
        inputs = Inputs(config, pool, held_out, run, progress)
        for contender in in_turn():
            if contender in contenders:
                _measure(contender, inputs, task)
        base = pool.saved.base.name if pool.saved else str(config.base)
        return summarize(base, config.source, Path(config.data).name, task, run, contenders, made_of)


def _held_out(config: EvaluationConfig, template: Template, task: Task) -> list[Example]:
    """Return the validation items, none of which is a test item."""
    held_out = [] if config.validation is None else load_task(config.validation, template).examples
    if seen := {example.text for example in held_out} & {example.text for example in task.examples}:
        raise VocabridgeError(
            f"{len(seen)} of the test items in {config.data} stand in {config.validation} too; remove them from one"
        )
    return held_out


def _warn_idle(config: EvaluationConfig, contenders: Sequence[Contender], *, chosen: bool) -> None:
    """Warn of settings that no contender has: who measures a few more contenders of a run has to repeat its settings.

    Args:
        config: The settings.
        contenders: What is measured.
        chosen: Whether the bridge is chosen on validation items; the byte-level bridge then has what was chosen.
    """
    advice = "only the contender byte-level has a tolerance; add --byte-level, or leave this out"
    refuse_idle(Effect("tolerance", config.tolerance is not None, Contender.BYTE_LEVEL in contenders, advice))
    given = {
        "policy": config.policies,
        "alpha": config.alphas,
        "combination": config.combination,
        "alignment": config.alignment,
        "validation": config.validation,
        "ceiling": config.ceiling,
        "control": config.control,
    }
    for name, value in given.items():
        users = [
            contender
            for contender, definition in CONTENDERS.items()
            if name in definition.used_settings or (chosen and name in definition.used_if_chosen)
        ]
        names = ", ".join(contender.value for contender in users)
        advice = f"none of the contenders has it; add one of them ({names}), or leave it out"
        warn_idle(Effect(name, value is not None, bool({*contenders} & {*users}), advice))


def _judge_answers(config: EvaluationConfig, task: Task) -> None:
    """Refuse settings of answers that nothing is compared with, and warn of those of answers that nobody writes."""
    data, written, extracts = str(config.data), config.answers != 0, config.extract is not None
    own = (config.prompt, config.response) != (EvaluationConfig.prompt, EvaluationConfig.response)
    refuse_idle(
        Effect("prompt", own, not data.startswith("reasoning-gym:"), f"{data} has its own templates; leave it out"),
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
        Effect("max_new_tokens", config.max_new_tokens != EvaluationConfig.max_new_tokens, written, advice),
    )


def _asked(asked: Sequence[Contender] | None, pool: ModelPool, *, validation: bool) -> list[Contender]:
    """Return the contenders to measure, in the order of tables."""
    missing = {name: what for name, one in CONTENDERS.items() if (what := one.missing(pool, validation=validation))}
    if asked is None:
        return [name for name, definition in CONTENDERS.items() if name not in missing and not definition.is_slow]
    for name in asked:
        if name in missing:
            raise VocabridgeError(f"the contender {name.value} needs {missing[name]}; give it")
    return [name for name in CONTENDERS if name in asked]


def _measure(contender: Contender, inputs: Inputs, task: Task) -> None:
    """Measure what is not there yet of one contender; this process's share of it."""
    definition, examples, run, tell = CONTENDERS[contender], task.examples, inputs.run, inputs.progress
    name, longest = definition.label, inputs.config.max_new_tokens
    asked = [i for i, example in enumerate(examples) if example.answer is not None] or [*range(len(examples))][:SHOWN]
    asked = asked[: inputs.config.answers]
    choosing = [i for i, item in enumerate(task.items) if item.choices]
    work: list[tuple[str, str, list[list[int]], Callable[[EvaluatedModel, list[int]], list[dict[str, Any]]]]] = [
        (
            "reading",
            "reading responses",
            [[i] for i in range(len(examples))],
            lambda model, unit: [model.read(examples[i]) for i in unit],
        ),
        (
            "choosing",
            "weighing choices",
            [[i] for i in choosing],
            lambda model, unit: [choose(model, task.items[i]) for i in unit],
        ),
        (
            "writing",
            "writing answers",
            batches(examples, asked, definition.answers_at_once),
            lambda model, unit: model.write([examples[i].prompt for i in unit], longest, task.extractor),
        ),
    ]
    pending = {part: run.pending(name, part, units) for part, _, units, _ in work}
    priced = run.get(name, "cost") is not None
    run.workers.wait()  # until all have seen what is to do
    if priced and not any(pending.values()):
        return
    tell(0, 1, f"{name}: loading")
    model = definition.load(inputs)
    for part, what, _, measure in work:
        mine = pending[part][run.workers.rank :: run.workers.count]
        for number, unit in enumerate(mine, start=1):
            run.append(name, part, dict(zip(unit, measure(model, unit), strict=True)))
            tell(number, len(mine), f"{name}: {what}")
    run.workers.wait()  # what is timed is timed alone
    if run.workers.is_first and not priced:
        tell(0, 1, f"{name}: timing")
        run.append(name, "cost", {None: cost(model, examples[0])})
    run.workers.wait()
    run.reload()
