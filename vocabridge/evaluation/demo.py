"""The demo: a value network of SmolLM2-135M, which ships with the package, steers Gemma-3-270M."""

from __future__ import annotations

from pathlib import Path

from vocabridge.alignment import align
from vocabridge.data import corpus_files, task_file, value_network_folder
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.evaluate import evaluate
from vocabridge.evaluation.html_report import write_report
from vocabridge.evaluation.results import Evaluation
from vocabridge.models.loading import resolve_vocabulary
from vocabridge.options import Contender
from vocabridge.utils.progress import Progress, no_progress

SOURCE = "smollm2-135m-instruct"
TARGET = "gemma-3-270m"
# One batch of answers, and 3 contenders, so that the demo takes a few minutes.
_ANSWERS = 17
_CONTENDERS = (Contender.BASE, Contender.DONOR, Contender.BRIDGE)


def run_demo(output: Path, *, limit: int | None = None, progress: Progress = no_progress) -> Evaluation:
    """Align the two tokenizers, evaluate the bridge, and write `report.html` and `report.json`.

    Args:
        output: The folder for the report, which is created if necessary.
        limit: Number of test items to evaluate on, the first ones; None for all.
        progress: Called at every step.

    Raises:
        VocabridgeError: A packaged model is not installed, or the report cannot be written.
    """
    progress(0, 1, "preparing the models")
    vocabularies = resolve_vocabulary(SOURCE), resolve_vocabulary(TARGET)

    def report_alignment(done: int, total: int) -> None:
        progress(done, total, f"aligning {SOURCE} and {TARGET}")

    align(*vocabularies, corpus=corpus_files(), progress=report_alignment)
    config = EvaluationConfig(
        task_file("test"),
        base=TARGET,
        value=str(value_network_folder()),
        validation=task_file("validation"),
        contenders=_CONTENDERS,
        limit=limit,
        answers=_ANSWERS,
    )
    evaluation = evaluate(config, progress=progress)
    output.mkdir(parents=True, exist_ok=True)
    evaluation.save(output / "report.json")
    write_report(evaluation, output / "report.html")
    return evaluation
