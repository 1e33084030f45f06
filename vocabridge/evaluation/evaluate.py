"""Evaluation of a bridge: all contenders that a base model and a small tuned model allow, on the same test items.

    items, models -> contenders, measuring -> records of a `RunStore` -> metrics -> `Evaluation` -> tables, JSON, page

Every contender scores the same responses, and continues the same prompts greedily with the same number of tokens. Every
figure has a 95% interval from resampling the items (items that share a template together), and every difference is
paired. Settings are fitted and chosen on validation items only.
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
from vocabridge.evaluation.contenders import CONTENDERS, measuring_order
from vocabridge.evaluation.contenders.definition import Inputs
from vocabridge.evaluation.description import describe
from vocabridge.evaluation.measuring import batches, cost, score_choices
from vocabridge.evaluation.model_pool import ModelPool
from vocabridge.evaluation.results import SHOWN, Evaluation, summarize
from vocabridge.evaluation.run_store import RunStore, Workers
from vocabridge.evaluation.scoring import EvaluatedModel
from vocabridge.evaluation.tasks import Task, Template, load_task
from vocabridge.models.examples import Example
from vocabridge.options import Contender
from vocabridge.utils.progress import Progress, no_progress


def evaluate(
    config: EvaluationConfig, *, records: Path | None = None, device: str = "cpu", progress: Progress = no_progress
) -> Evaluation:
    """Compare a bridge with all other contenders that can be made of the same models.

    Several processes of a launcher (`accelerate launch`, `torchrun`) share the items.

    Args:
        config: What to evaluate, and how.
        records: A folder to which results are written at once, so that the same call resumes an interrupted
            evaluation. Without a folder, an interrupted evaluation starts anew.
        device: The device of the models; with "cuda", each process has a GPU of its own.
        progress: Called at every step.

    Raises:
        VocabridgeError: A file or model cannot be read, models do not fit together, a test item is also a validation
            item, the folder holds a different evaluation, or a setting has no effect.
    """
    workers, template = Workers(), Template(config.prompt, config.response, Extractor(config.extract))
    task = load_task(config.data, template, config.limit)
    held_out = _held_out(config, template, task)
    pool = ModelPool(config, workers.device(device))
    pool.check()
    contenders = _select_contenders(config.contenders, pool, validation=bool(held_out))
    _check_used(config, contenders, chosen=bool(held_out) and config.bridge is None)
    _check_answer_settings(config, task)
    tolerance = TOLERANCE if config.tolerance is None else config.tolerance
    description = describe(
        config, pool.saved, **({"tolerance": tolerance} if Contender.BYTE_LEVEL in contenders else {})
    )
    with ExitStack() as stack:
        if records is None:
            if workers.count > 1:
                raise VocabridgeError("several processes need a folder that they share; name one with --records")
            records = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = RunStore(records, description, workers)
        stack.callback(run.close)
        inputs = Inputs(config, pool, held_out, run, progress)
        for contender in measuring_order():
            if contender in contenders:
                _measure(contender, inputs, task)
        base = pool.saved.base.name if pool.saved else str(config.base)
        return summarize(base, config.source, Path(config.data).name, task, run, contenders, description)


def _held_out(config: EvaluationConfig, template: Template, task: Task) -> list[Example]:
    """Return the validation items.

    Raises:
        VocabridgeError: A test item is also a validation item.
    """
    held_out = [] if config.validation is None else load_task(config.validation, template).examples
    if common := {example.text for example in held_out} & {example.text for example in task.examples}:
        raise VocabridgeError(
            f"{len(common)} of the test items in {config.data} are also in {config.validation}; "
            "remove them from one of the files"
        )
    return held_out


def _check_used(config: EvaluationConfig, contenders: Sequence[Contender], *, chosen: bool) -> None:
    """Refuse a tolerance that no contender uses, and warn of other settings that no contender uses.

    The latter are no errors, because a call that adds contenders to a run repeats the settings of the run.

    Args:
        config: The settings.
        contenders: The contenders that are measured.
        chosen: Whether the bridge's setting is chosen on validation items; the byte-level bridge then uses this
            setting.
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
        advice = f"no contender that is measured uses it; add one that does ({names}), or leave it out"
        warn_idle(Effect(name, value is not None, bool({*contenders} & {*users}), advice))


def _check_answer_settings(config: EvaluationConfig, task: Task) -> None:
    """Refuse settings that the task makes useless, and warn of settings of answers if no answers are generated."""
    data, generates, extracts = str(config.data), config.answers != 0, config.extract is not None
    has_template = (config.prompt, config.response) != (EvaluationConfig.prompt, EvaluationConfig.response)
    refuse_idle(
        Effect(
            "prompt", has_template, not data.startswith("reasoning-gym:"), f"{data} has its own templates; leave it out"
        ),
        Effect(
            "extract",
            extracts,
            any(example.answer is not None for example in task.examples),
            'no item has an answer to compare with; give the items an "answer", or a response template in which the '
            "pattern finds one",
        ),
    )
    advice = "no answers are generated; set their number with --answers"
    warn_idle(
        Effect("extract", extracts, generates, advice),
        Effect("max_new_tokens", config.max_new_tokens != EvaluationConfig.max_new_tokens, generates, advice),
    )


def _select_contenders(names: Sequence[Contender] | None, pool: ModelPool, *, validation: bool) -> list[Contender]:
    """Return the contenders to measure, in the order of tables."""
    missing = {
        name: need
        for name, definition in CONTENDERS.items()
        if (need := definition.missing(pool, validation=validation))
    }
    if names is None:
        return [name for name, definition in CONTENDERS.items() if name not in missing and not definition.is_slow]
    for name in names:
        if name in missing:
            raise VocabridgeError(
                f"the contender {name.value} needs {missing[name]}; give it, or leave the contender out"
            )
    return [name for name in CONTENDERS if name in names]


def _measure(contender: Contender, inputs: Inputs, task: Task) -> None:
    """Measure what the records lack of one contender: this process's share of the items, and the cost in the first."""
    definition, examples, run, progress = CONTENDERS[contender], task.examples, inputs.run, inputs.progress
    name, max_new_tokens = definition.label, inputs.config.max_new_tokens
    answered = [i for i, example in enumerate(examples) if example.answer is not None]
    answered = (answered or [*range(len(examples))][:SHOWN])[: inputs.config.answers]
    multiple_choices = [i for i, item in enumerate(task.items) if item.choices]
    work: list[tuple[str, str, list[list[int]], Callable[[EvaluatedModel, list[int]], list[dict[str, Any]]]]] = [
        (
            "reading",
            "scoring responses",
            [[i] for i in range(len(examples))],
            lambda model, unit: [model.score_response(examples[i]) for i in unit],
        ),
        (
            "choosing",
            "scoring choices",
            [[i] for i in multiple_choices],
            lambda model, unit: [score_choices(model, task.items[i]) for i in unit],
        ),
        (
            "writing",
            "generating answers",
            batches(examples, answered, definition.answers_at_once),
            lambda model, unit: model.generate([examples[i].prompt for i in unit], max_new_tokens, task.extractor),
        ),
    ]
    pending = {part: run.pending(name, part, units) for part, _, units, _ in work}
    has_cost = run.get(name, "cost") is not None
    run.workers.wait()  # so that all processes see the same pending work
    if has_cost and not any(pending.values()):
        return
    progress(0, 1, f"{name}: loading")
    model = definition.load(inputs)
    for part, description, _, measure in work:
        share = pending[part][run.workers.rank :: run.workers.count]
        for number, unit in enumerate(share, start=1):
            run.append(name, part, dict(zip(unit, measure(model, unit), strict=True)))
            progress(number, len(share), f"{name}: {description}")
    run.workers.wait()  # no other process works during the timing
    if run.workers.is_first and not has_cost:
        progress(0, 1, f"{name}: timing")
        run.append(name, "cost", {None: cost(model, examples[0])})
    run.workers.wait()
    run.reload()
