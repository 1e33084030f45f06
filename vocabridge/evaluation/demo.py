"""The main job on real models: what SmolLM2-135M learned, shipped with the package, steers Gemma-3-270M."""

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
_ANSWERS = 17  # items with a greedy answer, one batch: what a few minutes allow
_CONTENDERS = (Contender.BASE, Contender.DONOR, Contender.BRIDGE)  # likewise


def run_demo(output: Path, *, limit: int | None = None, progress: Progress = no_progress) -> Evaluation:
    """Aligns the two tokenizers, bridges, evaluates, and writes `report.html` and `report.json`.

    Args:
        output: The folder for the report; made if absent.
        limit: Evaluate on the first so many test items only.
        progress: Told of every step.

    Raises:
        VocabridgeError: A packaged model is not installed, or the report cannot be written.
    """
    progress(0, 1, "preparing the models")
    vocabularies = resolve_vocabulary(SOURCE), resolve_vocabulary(TARGET)

    def tell(done: int, total: int) -> None:
        progress(done, total, f"aligning {SOURCE} and {TARGET}")

    align(*vocabularies, corpus=corpus_files(), progress=tell)
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
